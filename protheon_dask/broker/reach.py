"""Why a broker that is there does not answer: gRPC calls every handshake that fails an outage, and waiting mends none of these."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final

from protheon_dask.broker.tls import MASTER_NAME, TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, MissingSetting, OtherTransport

ASK_S: Final = 3.0
"""How long each step of a look may take: as many as five packets to a master that is there."""
GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, 3.4: preface and empty SETTINGS
FRAME_BYTES, SETTINGS_TYPE = 9, 4
SILENT: Final = "no answer in time"
NO_MASTER: Final = "what listens there does not answer as a master does"
PORTS: Final = {Settings().scheduler_port: "Dask's scheduler", Settings().join_port: "where hosts join"}
"""Others of a master that show its certificate, where nobody gave them another number."""
HANGS_UP: Final = (ssl.SSLError, ConnectionResetError, ConnectionAbortedError)
"""How a handshake ends with what speaks no TLS: by an alert, or by none."""
# OpenSSL's verify codes, X509_V_ERR_*
NOT_YET_VALID, EXPIRED, NAME_MISMATCH = 9, 10, 62


def refusal(address: str, tls: TlsFiles | None) -> ConfigError | str:
    """Look at address (host:port) as a client with this identity would, and say what stands in the way.

    Returns an error for what does so for good; else in words why nobody answers, or none where it is well.
    Guarantee: blocks for a few times ASK_S at most; sends nothing secret.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return ""
    place = (host.strip("[]"), int(port))
    try:
        return _without_tls(address, place) if tls is None else _with_tls(address, place, tls)
    except (socket.gaierror, UnicodeError) as error:
        return unknown_name(host, error)
    except TimeoutError:
        return SILENT
    except HANGS_UP:
        return NO_MASTER
    except OSError as error:
        return error.strerror or str(error)


def unknown_name(host: str, error: OSError | UnicodeError) -> str:
    """Of a name that does not resolve; UnicodeError: one of its labels is empty or too long."""
    return f"the name {host} is not known here ({getattr(error, 'strerror', None) or error})"


def joined_elsewhere(address: str, tls: TlsFiles | None) -> str:
    """A sentence for a host that joined a master at another address than this one; else empty."""
    joined = "" if tls is None else tls.joined_master()
    return f"This host joined the master at {joined}" if joined and joined != address else ""


def _without_tls(address: str, place: tuple[str, int]) -> ConfigError | str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is told to it: only whether it speaks TLS
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(place, ASK_S) as plain:
        try:
            context.wrap_socket(plain).close()
        except HANGS_UP:
            return "" if _greets(place) else NO_MASTER
        return OtherTransport(
            f"the broker at {address} speaks mutual TLS, and there is no certificate here to show it: join its cluster "
            "(`protheon cluster invite` on the master, `protheon worker --join TOKEN` here), or set tls_dir to where this host's is"
        )


def _with_tls(address: str, place: tuple[str, int], tls: TlsFiles) -> ConfigError | str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        return MissingSetting(f"{tls.directory}: this host's certificate cannot be used: {error}; join the cluster anew")
    try:
        if not _offers_grpc(place, context):  # before anything is sent: Dask takes a greeting for the length of a message
            return _other_port(address, tls)
        if _greets(place, context) or _greets(place, context):  # once more: it may just have ended
            return ""
    except ssl.SSLCertVerificationError as error:
        return ConfigError(f"the broker at {address} {_what_is_wrong(error, tls)}")
    except HANGS_UP:
        if not _greets(place):
            raise
        return OtherTransport(
            f"the broker at {address} speaks plaintext, and this host has a certificate of a cluster ({tls.directory}): "
            "nothing was sent. Is it another master, or was it started with --insecure? Give the address of the cluster's"
        )
    return _refused(address, tls)


def _other_port(address: str, tls: TlsFiles) -> ConfigError:
    """The master itself, where it does not speak gRPC."""
    whose = PORTS.get(int(address.rpartition(":")[2]))
    what = f"that is {whose}" if whose else "another of its ports"
    to_do = joined_elsewhere(address, tls) or f"Give that one, most often HOST:{Settings().broker_port}"
    return ConfigError(f"what answers at {address} is of this host's cluster, and not its master's gRPC address: {what}. {to_do}")


def _what_is_wrong(error: ssl.SSLCertVerificationError, tls: TlsFiles) -> str:
    if error.verify_code in (NOT_YET_VALID, EXPIRED):
        return "shows a certificate that is not valid now: look at the clocks of both hosts, and whether the master renews its own"
    if error.verify_code == NAME_MISMATCH:
        return "is a host of this cluster, and not its master: give the master's address"
    return f"shows a certificate of another authority than {tls.ca}: it is not this cluster's master, or the cluster was made anew"


def _refused(address: str, tls: TlsFiles) -> ConfigError:
    from cryptography import x509  # here: it is needed at a fault alone

    ended_at = x509.load_pem_x509_certificate(tls.certificate.read_bytes()).not_valid_after_utc
    if ended_at < datetime.now(UTC):
        why = f"ran out at {ended_at:%Y-%m-%d %H:%M} UTC; `protheon worker` here gets a new one by itself, for 30 days from then on"
    else:
        why = "is of another authority, or not valid yet by the master's clock"
    return ConfigError(
        f"the broker at {address} does not accept this host's certificate ({tls.certificate}): it {why}. "
        "To join again: `protheon cluster invite` on the master, `protheon worker --join TOKEN` here"
    )


def _offers_grpc(place: tuple[str, int], context: ssl.SSLContext) -> bool:
    """Tell whether the other end chose HTTP/2, as gRPC does in the handshake, before it looks at a certificate. Raises OSError."""
    with socket.create_connection(place, ASK_S) as plain, context.wrap_socket(plain, server_hostname=MASTER_NAME) as way:
        return way.selected_alpn_protocol() == "h2"


def _greets(place: tuple[str, int], context: ssl.SSLContext | None = None) -> bool:
    """Tell whether the other end speaks HTTP/2, once the handshake is over; without a context in plaintext.

    gRPC hangs up without a word on a certificate that it does not accept: in TLS 1.3 only after the handshake. Raises OSError.
    """
    with ExitStack() as stack:
        way: socket.socket = stack.enter_context(socket.create_connection(place, ASK_S))
        if context is not None:
            way = stack.enter_context(context.wrap_socket(way, server_hostname=MASTER_NAME))
        way.sendall(GREETING)
        try:
            frame = way.recv(FRAME_BYTES)
        except ConnectionError:
            return False
    return len(frame) == FRAME_BYTES and frame[3] == SETTINGS_TYPE
