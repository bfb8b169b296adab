"""This host's identity as files: made once, renewed while processes run, and which cluster it is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.errors import ConfigError, MissingSetting
from protheon_dask.run.trust import certificates, owner_files
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.identity import TLS_DIR
from protheon_dask.run.trust.owner_files import check_owner_alone, make_directory, replace_file

LOCK: Final = "lock"
LOCK_S: Final = 120.0
"""Who holds it joins or renews: a few calls over the network."""
RENEW_AT: Final = 1 / 3
"""Of a certificate's life from when it was made: a host that sleeps for 16 h at that moment can still renew."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """cluster.json: which cluster this host is of."""

    master: str  # host:port of gRPC
    host: str  # this one's name
    joining: tuple[str, ...] = ()  # host:port where hosts join, the one that answered first; empty: it joined before this was noted
    invite: str = ""  # by which it joined: the same line pasted again changes nothing; empty: the master itself


class Renewing(Protocol):
    """A client of the master that is this host."""

    def renew(self, request_pem: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """A host's certificate as its file says."""

    host: str
    made_at: datetime
    until_at: datetime

    @property
    def renew_at(self) -> datetime:
        """When it is time to ask for another."""
        return self.made_at + (self.until_at - self.made_at) * RENEW_AT


def membership_of(tls: TlsFiles) -> Membership | None:
    """What was noted when this host joined; None: nothing. Raises ConfigError: the note is damaged."""
    path = tls.note
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}; join the cluster anew, or give the master's address") from exc


def note_master(tls: TlsFiles, master: str) -> None:
    """Write down, on the master, by which address its own host reaches gRPC now. A host that joined keeps what it was told."""
    with locked(tls):
        noted = membership_of(tls)
        if noted is not None and not noted.invite and noted.master != master:
            replace_file(tls.note, msgspec.json.encode(msgspec.structs.replace(noted, master=master)))


def identity_of(tls: TlsFiles) -> Identity:
    """Raises: MissingSetting: there is none. ConfigError: it is damaged."""
    shown = certificates.read_host(_certificate(tls))
    return Identity(shown.host, shown.not_before_at + certificates.CLOCK_SKEW, shown.until_at)


def renew_if_due(tls: TlsFiles, master: Renewing, now: datetime | None = None) -> bool:
    """Ask the master for a new certificate once a third of this one's life is over; the key stays. Says whether it did.

    Raises: NotAllowed: this host was removed. BrokerUnavailable: try again later. ConfigError: the files are damaged.
    Guarantee: what is there serves until the new one is in its place. Two processes of a host renew one after the other.
    """
    if not _is_due(tls, now):
        return False
    with locked(tls):
        if not _is_due(tls, now):  # another process has
            return False
        identity = identity_of(tls)
        key = own_key(tls)
        certificate_pem = master.renew(certificates.make_request(key, identity.host))
        check_given(certificate_pem, tls.ca.read_bytes(), key, identity.host)
        replace_file(tls.certificate, certificate_pem)
    return True


def renew_own_if_due(tls: TlsFiles, authority: Authority, now: datetime | None = None) -> bool:
    """The same for the master, which has the authority itself: also when its certificate has ended, after a long rest."""
    return renew_if_due(tls, _Own(authority, identity_of(tls).host), now)


@dataclass(frozen=True, slots=True)
class _Own:
    """The master, as a client of its own authority."""

    authority: Authority
    host: str

    def renew(self, request_pem: bytes) -> bytes:
        return self.authority.admit_master(request_pem, self.host).certificate_pem


def write_identity(tls: TlsFiles, *, key_pem: bytes, certificate_pem: bytes, ca_pem: bytes, membership: Membership) -> None:
    """Put a new identity in its place; the certificate last, by which tls_of knows that it is whole. Under locked()."""
    replace_file(tls.ca, ca_pem)
    replace_file(tls.key, key_pem)
    replace_file(tls.note, msgspec.json.encode(membership))
    replace_file(tls.certificate, certificate_pem)


def check_given(certificate_pem: bytes, ca_pem: bytes, key: EllipticCurvePrivateKey, host: str) -> None:
    """Raise ConfigError unless this is a certificate of this authority for this key and this host."""
    given, ca = certificates.from_pem(certificate_pem), certificates.from_pem(ca_pem)
    try:
        given.verify_directly_issued_by(ca)
        is_issued = True
    except (ValueError, TypeError, InvalidSignature):
        is_issued = False
    is_ours = given.public_key() == key.public_key() and certificates.read_host(certificate_pem).host == host
    if not (is_issued and is_ours):
        raise ConfigError(f"the master gave a certificate that is not for host {host} and its key: look at its log, and at its version")


def own_key(tls: TlsFiles) -> EllipticCurvePrivateKey:
    """Raises: ConfigError: it is damaged, or others can read it. MissingSetting."""
    try:
        check_owner_alone(tls.key)
        return certificates.key_from_pem(tls.key.read_bytes())
    except OSError as exc:
        raise MissingSetting(f"{tls.key}: {exc.strerror}; join the cluster anew: `protheon worker --join TOKEN`") from exc


@contextmanager
def locked(tls: TlsFiles) -> Iterator[None]:
    """Be the only process that changes this identity; its directory is made. Raises TransientError."""
    make_directory(tls.directory)
    with owner_files.locked(tls.directory / LOCK, "this host's certificate", LOCK_S):
        yield


def certificate_of(tls: TlsFiles) -> x509.Certificate:
    """Raises: MissingSetting; ConfigError."""
    return certificates.from_pem(_certificate(tls))


def _certificate(tls: TlsFiles) -> bytes:
    try:
        return tls.certificate.read_bytes()
    except OSError as exc:
        raise MissingSetting(f"{tls.certificate}: {exc.strerror}; join the cluster: `protheon worker --join TOKEN`") from exc


def _is_due(tls: TlsFiles, now: datetime | None) -> bool:
    return (now or datetime.now(UTC)) >= identity_of(tls).renew_at


def tls_below(home: Path) -> TlsFiles:
    """Where a host's identity is made."""
    return TlsFiles(home / TLS_DIR)
