"""Join a cluster by a token: prove that the master is the one that gave it, then get a certificate."""

from __future__ import annotations

import hmac
import http
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from protheon_dask.broker.join import CA_PATH, JOIN_PATH, JoinReply, JoinRequest
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.errors import BrokerUnavailable, ConfigError
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.host_names import check_host_name, host_name_of
from protheon_dask.run.trust.join_client import NobodyAnswered, OtherCluster, called, decided, first_answer
from protheon_dask.run.trust.join_token import JoinToken
from protheon_dask.run.trust.membership import (
    Membership,
    certificate_of,
    check_given,
    identity_of,
    locked,
    membership_of,
    tls_below,
    write_identity,
)
from protheon_dask.run.trust.owner_files import replace_file

JOINING_KEY: Final = "joining.key"
"""The key that is being joined with: kept until the certificate is there, so that a host whose answer was lost asks again as itself."""


@dataclass(frozen=True, slots=True)
class JoinedHost:
    """What came of it."""

    host: str  # this one's name in the cluster
    master: str  # host:port of gRPC
    tls: TlsFiles
    is_new: bool  # False: this host had joined by this very token


def join(token_text: str, home: Path, host: str | None = None, *, now: datetime | None = None) -> JoinedHost:
    """Make this host one of the token's cluster, and write its identity below home. host: its name; None: what the machine calls itself.

    A host that has joined by this very token is left as it is, so the line can be pasted again, and stand in a unit file.

    Raises: NotAllowed: the master refuses: the token, or the name is taken. BrokerUnavailable: no address answers.
            ConfigError: the token is not whole, another cluster answers, or this host is in another one.
    Guarantee: the secret is sent to nobody but the master of the token's cluster. After kill -9 the same line completes it.
    """
    token = JoinToken.parse(token_text)
    name = check_host_name(host) if host else host_name_of(socket.gethostname())
    tls = tls_below(home)
    with locked(tls):
        present = _present(tls, token, now or datetime.now(UTC))
        if present is not None:
            if host is not None and present.host != host:
                raise ConfigError(f"this host has joined by this token as {present.host}: to join as {host}, use a new one")
            (tls.directory / JOINING_KEY).unlink(missing_ok=True)  # a kill came before: a later joining must have a key of its own
            return JoinedHost(present.host, present.master, tls, is_new=False)
        key_pem = _joining_key(tls)
        key = certificates.key_from_pem(key_pem)
        request = JoinRequest(
            invite=token.invite.hex(), secret=token.secret.hex(), host=name, csr=certificates.make_request(key, name).decode("ascii")
        )
        address, ca_pem, reply = _asked(token, request)
        certificate_pem = reply.certificate.encode()
        check_given(certificate_pem, ca_pem, key, name)
        master = _with_port(address, reply.broker_port)
        joining = (address, *(other for other in token.addresses if other != address))
        membership = Membership(master=master, host=name, joining=joining, invite=token.invite.hex())
        write_identity(tls, key_pem=key_pem, certificate_pem=certificate_pem, ca_pem=ca_pem, membership=membership)
        (tls.directory / JOINING_KEY).unlink()
    return JoinedHost(name, master, tls, is_new=True)


def _present(tls: TlsFiles, token: JoinToken, now: datetime) -> Membership | None:
    """The membership that this token gave already; one whose certificate ended, if run.trust.returning can ask for another by its key.

    Raises ConfigError: it is of another cluster.
    """
    if not tls.certificate.exists():
        return None
    if certificates.fingerprint(certificates.from_pem(tls.ca.read_bytes())) != token.fingerprint:
        raise ConfigError(
            f"this host is in another cluster already: {tls.directory} has its certificate. To leave that one, remove the directory; "
            "to be in both, give this one a home of its own (PROTHEON_HOME)"
        )
    membership = membership_of(tls)
    if membership is None or membership.invite != token.invite.hex():
        return None
    if identity_of(tls).until_at <= now and not membership.joining:
        return None
    is_whole = certificate_of(tls).public_key() == certificates.key_from_pem(tls.key.read_bytes()).public_key()
    return membership if is_whole else None


def _joining_key(tls: TlsFiles) -> bytes:
    path = tls.directory / JOINING_KEY
    if not path.exists():
        replace_file(path, certificates.key_to_pem(certificates.make_key()))
    return path.read_bytes()


def _asked(token: JoinToken, request: JoinRequest) -> tuple[str, bytes, JoinReply]:
    """The address at which the token's own master answers, its authority's certificate, and what it says."""

    def ask(address: str) -> tuple[str, bytes, JoinReply]:
        ca_pem = _trusted_ca(address, token.fingerprint)
        return address, ca_pem, decided(address, ca_pem, JOIN_PATH, request, "let this host join")

    try:
        return first_answer(token.addresses, ask)
    except NobodyAnswered as none:
        if none.n_others == len(none.problems) == 1:
            raise ConfigError(str(none)) from none
        kind = ConfigError if none.n_others else BrokerUnavailable
        raise kind(f"no master answers to this token: {none}. Is `protheon master` running, and are its ports open to this host?") from none


def _trusted_ca(address: str, fingerprint: bytes) -> bytes:
    """The authority's certificate, which is the token's own, whoever gave it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its fingerprint is what counts, and nothing is told here
    code, body = called(address, context, "GET", CA_PATH, b"")
    try:
        is_it = code == http.HTTPStatus.OK and hmac.compare_digest(certificates.fingerprint(certificates.from_pem(body)), fingerprint)
    except ConfigError:
        is_it = False
    if not is_it:
        raise OtherCluster(
            f"what answers at {address} is not the master that gave this token: another cluster's, or somebody between; it was told nothing"
        )
    return body


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
