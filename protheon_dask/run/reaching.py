"""Which master a host works for, how it shows itself there, and whether the database that it is to load into can be used from here."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.peers import is_loopback
from protheon_dask.broker.reach import unknown_name
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import BrokerUnavailable, ConfigError
from protheon_dask.ledger import reports
from protheon_dask.ledger.connect import check_writable, opened, place_of
from protheon_dask.ledger.migrate import check_usable
from protheon_dask.run.addresses import address_for_all, is_here, is_near, master_address
from protheon_dask.run.enrolling import Enrolled
from protheon_dask.run.settings import home_of
from protheon_dask.run.trust.identity import own_name, tls_of
from protheon_dask.run.trust.joining import join
from protheon_dask.run.trust.keys import KEY_FILE
from protheon_dask.run.trust.membership import identity_of, membership_of

APPLICATION: Final = "protheon-worker"
SCHEDULER_S: Final = 3.0
"""How long a scheduler may take to accept a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person asked of this host. Empty: decided here."""

    master: str = ""  # host or host:port of gRPC
    token: str = field(default="", repr=False)
    into: str = field(default="", repr=False)  # the database's URL; may hold a password
    host: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Reach:
    """A master, and who this host is to it. tls: None: plaintext. is_insecure: a person has said that this may leave the machine."""

    master: str
    host: str
    tls: TlsFiles | None
    is_insecure: bool = False

    @property
    def is_here(self) -> bool:
        """Is the master on this machine?"""
        return is_here(self.master.rpartition(":")[0])


def reach(settings: Settings, wanted: Wanted) -> Reach:
    """Find out which master it is, and join its cluster first where a token was given.

    Raises: ConfigError: nobody says which master; plaintext to another host without --insecure; the name is another one than this
            host joined by. What join() raises.
    """
    if wanted.token and wanted.insecure:
        raise ConfigError("--join makes this host show a certificate, and --insecure does without: give one of them")
    tls = None if wanted.insecure else tls_of(settings)
    if wanted.token:
        if settings.tls_dir:
            raise ConfigError("--join writes this host's certificate below home: leave PROTHEON_TLS_DIR out, or join without it first")
        joined = join(wanted.token, home_of(settings), wanted.host or None)
        return Reach(master_address(wanted.master or joined.master, settings.broker_port), joined.host, joined.tls)
    member = membership_of(tls) if tls is not None else None
    if not (master := wanted.master or (member.master if member is not None else "")):
        raise ConfigError(
            "which master? Paste the line that `protheon cluster invite` prints there (protheon worker --join TOKEN), "
            "or give its address: protheon worker HOST:50051"
        )
    master = master_address(master, settings.broker_port)
    if tls is None:
        if not wanted.insecure and not is_loopback(host := master.rpartition(":")[0]):
            check_name(host.strip("[]"))
            raise ConfigError(
                f"the master at {master} is on another host, and this one has no certificate to show: join by a token (`protheon cluster "
                "invite` there prints the line), or give --insecure: then all that travels can be read and changed on the way, and anyone "
                "who reaches a port of Dask here runs code as you"
            )
        return Reach(master, wanted.host or own_name(settings), None, wanted.insecure)
    host = identity_of(tls).host
    if wanted.host and wanted.host != host:
        raise ConfigError(f"this host has joined as {host}, not {wanted.host}: leave --name out, or join by a new token")
    return Reach(master, host, tls)


def check_name(host: str) -> None:
    """Raise ConfigError for a name that does not resolve: a certificate does not help there."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"{unknown_name(host, exc)}: give the master's address") from exc


def check_database(enrolled: Enrolled, broker: BrokerClient, at: Reach) -> None:
    """See that this host reaches the master's ledger, and may work on it.

    Raises: ConfigError: it is another database, the role lacks rights (the GRANTs follow), or the URL means another machine.
            LedgerUnavailable, BrokerUnavailable: ask again.
    """
    url = enrolled.settings.database_url
    place = place_of(url)
    if enrolled.is_told_database and not at.is_here and any(is_near(host) for host in place.host.split(",")):
        raise ConfigError(
            f"the master at {at.master} loads into {place}, an address of its own that means this machine here: start it with --into and "
            "an address that other hosts reach, or give this host its own way there by --into"
        )
    with opened(url, application=APPLICATION) as conn:
        check_writable(conn, url)
        check_usable(conn, url)
        ledger_id = str(reports.status(conn)["ledger_id"])
    if ledger_id != broker.info().ledger_id:
        whose = "the master's URL leads" if enrolled.is_told_database else "the database URL of this host leads"
        raise ConfigError(f"{whose} to another ledger than the master at {at.master} has ({place}): give the master's database by --into")


def check_scheduler(address: str) -> None:
    """Raise BrokerUnavailable while nobody listens there: workers that find nobody end, and all others of their command with them."""
    host, port = host_and_port(address)
    try:
        socket.create_connection((host, port), SCHEDULER_S).close()
    except OSError as exc:
        raise BrokerUnavailable(f"the Dask scheduler at {address} does not answer: {exc.strerror or exc}") from exc


def listening_address(enrolled: Enrolled, at: Reach) -> str:
    """Where workers of this host listen, and nowhere else: by which they reach the scheduler; on the master's own machine, if others
    reach that scheduler, where their workers reach these, too. In plaintext only a person's --insecure lets them.

    Raises: BrokerUnavailable: there is no way to the scheduler.
    """
    address = own_address(enrolled.scheduler_address)
    is_for_all = is_loopback(address) and enrolled.is_scheduler_everywhere and (at.tls is not None or at.is_insecure)
    return address_for_all() if is_for_all else address


def own_address(towards: str) -> str:
    """The address of this machine by which it reaches the scheduler. Raises BrokerUnavailable."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(*host_and_port(towards), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise BrokerUnavailable(f"there is no way to the Dask scheduler at {towards}: {exc.strerror or exc}") from exc


def host_and_port(address: str) -> tuple[str, int]:
    """Of ``tls://host:port``. Raises ConfigError."""
    parts = urlsplit(address)
    if not parts.hostname or parts.port is None:
        raise ConfigError(f"the master told {address!r} as the Dask scheduler's address, which is none: look at its version and its log")
    return parts.hostname, parts.port


def key_file(directory: Path) -> Path:
    """Where a host keeps the cluster's key that the master gave it."""
    return directory / KEY_FILE
