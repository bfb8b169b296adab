"""Mutual TLS of gRPC: both ends show a certificate of the cluster's own authority, and the master's is asked for by a fixed name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from protheon_dask.errors import MissingSetting

MASTER_NAME: Final = "master.protheon.internal"
"""In the master's certificate beside its own name: clients ask for it, whatever address they reach the master by, and no host has it."""
CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "host.pem"
KEY_FILE: Final = "host.key"
CLUSTER_FILE: Final = "cluster.json"


SERIAL_RANDOM_BITS: Final = 96
"""The lower bits of a serial number; above them is the host's join number. 64 random bits are the least that a CA must have (CA/B 7.1)."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a host of a cluster shows and trusts, as PEM files in one directory. The certificate is replaced while processes run."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The certificate of the cluster's authority, the only one that is trusted."""
        return self.directory / CA_FILE

    @property
    def certificate(self) -> Path:
        """This host's, signed by that."""
        return self.directory / CERTIFICATE_FILE

    @property
    def key(self) -> Path:
        """This host's private key, mode 0600."""
        return self.directory / KEY_FILE

    @property
    def note(self) -> Path:
        """What was noted when this host joined; run.trust.membership has its form."""
        return self.directory / CLUSTER_FILE

    def joined_master(self) -> str:
        """The gRPC address that was told to this host when it joined; empty: it did not join, or nothing can be read of it."""
        try:
            noted = json.loads(self.note.read_bytes())
        except (OSError, ValueError):
            return ""
        is_one = isinstance(noted, dict) and bool(noted.get("invite"))
        return str(noted.get("master", "")) if is_one else ""

    def read(self) -> Pem:
        """Raises MissingSetting: a file is not there, or not ours to read."""
        try:
            return Pem(self.ca.read_bytes(), self.certificate.read_bytes(), self.key.read_bytes())
        except OSError as exc:
            raise MissingSetting(
                f"{exc.filename}: {exc.strerror}; on the master `protheon cluster init` makes it, elsewhere `protheon worker --join TOKEN`"
            ) from exc

    def stamp(self) -> tuple[int, int]:
        """Changes whenever the certificate was replaced; (0, 0) while there is none."""
        try:
            stat = self.certificate.stat()
        except OSError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_ino)


@dataclass(frozen=True, slots=True, repr=False)
class Pem:
    """The contents of TlsFiles; its repr shows nothing of the key."""

    ca: bytes
    certificate: bytes
    key: bytes


def join_no_of(serial_no: int) -> int:
    """Which joining of its host a certificate with this serial number belongs to, from 1."""
    return serial_no >> SERIAL_RANDOM_BITS


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Of a client. Raises MissingSetting."""
    pem = files.read()
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Of the master: a client without a certificate of the cluster's authority is refused. Raises MissingSetting.

    A certificate that is replaced is shown from the next handshake on.
    """
    pem, stamp = files.read(), files.stamp()

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal stamp
        if files.stamp() == stamp:
            return None
        try:
            pem, stamp = files.read(), files.stamp()
        except MissingSetting:  # it is being replaced: the old one serves until it is there
            return None
        return configuration(pem)

    return grpc.dynamic_ssl_server_credentials(configuration(pem), fetch, True)  # type: ignore[arg-type]  # the stubs forgot its None
