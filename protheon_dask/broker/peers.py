"""Who calls: the host that a certificate names, or, over plaintext, no more than an address."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from protheon_dask.broker.tls import MASTER_NAME

if TYPE_CHECKING:
    from grpc import aio


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a connection to the broker."""

    host: str  # by its certificate; empty over plaintext
    address: str  # of the network; empty where there is none
    connection: str  # as gRPC names it: address and port
    is_here: bool  # a client on the master's own host: by the master's certificate, or, over plaintext, by loopback
    serial_no: int = 0  # of the certificate; 0 over plaintext

    @property
    def party(self) -> str:
        """Who shares what one client may have: a host, and on the master's own each connection by itself."""
        return self.connection if self.is_here else self.host or self.address or self.connection

    def __str__(self) -> str:
        return f"host {self.host}" if self.host else f"a client at {self.address or self.connection}"


HERE: Final = Peer("", "", "", is_here=True)
"""This process itself."""


def peer_of(context: aio.ServicerContext[Any, Any]) -> Peer:
    """Who makes this call.

    Guarantee: over TLS the address proves nothing: another host's certificate that comes over loopback, through a tunnel, is that host.
    """
    connection, proved = context.peer(), context.auth_context()
    address = address_of(connection)
    if b"ssl" not in proved.get("transport_security_type", ()):
        return Peer("", address, connection, is_here=not address or is_loopback(address))
    [host, *_] = proved.get("x509_common_name", (b"",)) or (b"",)
    names = proved.get("x509_subject_alternative_name", ())
    [pem, *_] = proved.get("x509_pem_cert", (b"",))
    return Peer(host.decode(errors="replace"), address, connection, MASTER_NAME.encode() in names, _serial_no(pem))


@lru_cache(maxsize=256)
def _serial_no(pem: bytes) -> int:
    from cryptography import x509  # here: processes without TLS need none of it

    return x509.load_pem_x509_certificate(pem).serial_number


def address_of(connection: str) -> str:
    """The network address in gRPC's name of a peer, such as ``ipv6:%5B::1%5D:1234``; empty: it has none (a local socket)."""
    kind, _, rest = unquote(connection).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches host."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)  # of an IPv4 client of a socket that listens on [::]
    return (mapped or address).is_loopback
