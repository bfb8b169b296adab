"""Addresses of hosts: as people give them, as they stand before a port, and those of this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import psutil

from protheon_dask.broker.peers import is_loopback
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"
MASTER_PORT: Final = Settings().broker_port
"""Of gRPC, where nobody says another."""
IS_IT_THERE: Final = "Is the master running, and is this its gRPC address?"
"""Asked of a person where nobody answers."""
OUTSIDE: Final = ("192.0.2.1", 9)
"""An address of nobody (RFC 5737): a datagram socket bound for it tells which of ours the default route begins at, and sends nothing."""


def bracketed(host: str) -> str:
    """As it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def with_port(address: str, port: int) -> str:
    """host:port of what may be a host alone; an IPv6 address alone may stand without brackets. What it names is not looked at."""
    host, colon, _ = address.rpartition(":")
    is_alone = not colon or address.endswith("]") or (":" in host and not host.startswith("["))
    return f"{bracketed(address)}:{port}" if is_alone else address


def master_address(text: str, port: int = MASTER_PORT) -> str:
    """``host:port`` of what a person gives; port: where that leaves it out. Raises ConfigError."""
    address = with_port(text.strip(), port)
    host = address.rpartition(":")[0]
    try:
        place = urlsplit(f"//{address}")
        is_one = bool(place.hostname and place.port) and place.username is None and not (place.path or place.query or place.fragment)
        if host.startswith("["):
            ipaddress.IPv6Address(host.strip("[]"))
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(f"{text!r} is no address of a master: give host:port, such as master:{MASTER_PORT}")
    return address


def led_already(leader: str, joined: str) -> str:
    """The refusal where another broker leads: which, if that is known, and how to use it.

    joined: the address of the master of this host's cluster; empty: it has joined none.
    """
    who = f", {leader}" if leader else ""
    return (
        f"another broker leads this ledger already{who}: use that master (type the command on its host, or from here, in Python, "
        f'protheon.connect("{joined or f"HOST:{MASTER_PORT}"}")), or stop it first'
    )


def is_here(host: str) -> bool:
    """Tell whether this name or address is one of this machine's."""
    if is_loopback(host):
        return True
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    own = {address.address.partition("%")[0] for of_card in psutil.net_if_addrs().values() for address in of_card}
    return bool(found & own) or all(map(is_loopback, found))


def is_near(host: str) -> bool:
    """Tell whether a PostgreSQL that is named so, which may be by the directory of its socket, is reached by its own machine alone."""
    return not host or host.startswith(("/", "@")) or is_loopback(host)


def own_addresses() -> Sequence[str]:
    """Addresses of this machine that others may reach it by: IPv4, without loopback, the default route's first."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        address.address
        for name, of_card in psutil.net_if_addrs().items()
        if name in up
        for address in of_card
        if address.family == socket.AF_INET and not address.address.startswith(("127.", "169.254."))
    ]
    first = _outward_address()
    return sorted(dict.fromkeys(found), key=lambda address: address != first)


def address_for_all() -> str:
    """Where processes listen that work for a scheduler which listens everywhere: the same for hosts and for this machine; loopback where
    it has no address. Asked at each start: a machine moves to another network.
    """
    return next(iter(own_addresses()), LOOPBACK)


def _outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(OUTSIDE)
        except OSError:  # no route: a machine by itself
            return ""
        return str(probe.getsockname()[0])
