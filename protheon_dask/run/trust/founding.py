"""What `protheon cluster` does on the master: found the cluster, invite hosts, tell of them, remove them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.run.addresses import LOOPBACK, own_addresses, with_port
from protheon_dask.run.settings import AUTHORITY_DIR, home_of
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.authority import Authority, HostRecord
from protheon_dask.run.trust.host_names import check_host_name, host_name_of
from protheon_dask.run.trust.identity import joined_master
from protheon_dask.run.trust.join_token import check_address
from protheon_dask.run.trust.membership import Membership, identity_of, locked, own_key, renew_own_if_due, tls_below, write_identity

ANSWER_S: Final = 1.0
"""For a connection to the master's own addresses: this machine's answer at once, or not at all."""


@dataclass(frozen=True, slots=True)
class Founded:
    """A cluster's master, as init() left it."""

    host: str
    authority: Path
    tls: TlsFiles
    fingerprint: bytes  # SHA-256 of the authority's certificate
    addresses: tuple[str, ...]  # of the joining port, for tokens; empty: those of this machine at the time
    is_new: bool


@dataclass(frozen=True, slots=True)
class Invited:
    """An invite; its repr shows no token."""

    token: str
    until_at: datetime
    uses: int
    addresses: tuple[str, ...]

    @property
    def line(self) -> str:
        """To paste on the other host."""
        return f"protheon worker --join {self.token}"

    def __repr__(self) -> str:
        return f"Invited(until_at={self.until_at:%Y-%m-%d %H:%M}, uses={self.uses}, addresses={self.addresses})"


def init(settings: Settings, name: str | None, addresses: Sequence[str]) -> Founded:
    """Make this machine the master of a cluster: the authority, and the master's own identity.

    Where both are there they are left as they are, but for addresses that are given, and a certificate that is due.

    Raises: ConfigError: this host is in another cluster; or another name than the master has.
    Guarantee: after kill -9 the same call completes it.
    """
    home = home_of(settings)
    tls = tls_below(home)
    is_new = not (home / AUTHORITY_DIR).exists()
    if is_new and tls.certificate.exists():
        raise ConfigError(
            f"this host is in a cluster already ({tls.directory}), and a master has an authority of its own: leave that one (remove the "
            "directory), or set PROTHEON_HOME to a home for the new one"
        )
    checked = tuple(check_address(with_port(address, settings.join_port)) for address in addresses)
    given_name = check_host_name(name) if name else ""
    authority = Authority.create(home) if is_new else Authority.open(home)
    if checked:
        authority.set_addresses(checked)
    host = given_name or _master_name(authority) or host_name_of(socket.gethostname())
    with locked(tls):
        is_made = tls.certificate.exists()
        if not is_made:
            key = certificates.make_key()
            given = authority.admit_master(certificates.make_request(key, host), host)
            write_identity(
                tls,
                key_pem=certificates.key_to_pem(key),
                certificate_pem=given.certificate_pem,
                ca_pem=given.ca_pem,
                membership=Membership(master=f"127.0.0.1:{settings.broker_port}", host=host),
            )
    if is_made:
        if certificates.fingerprint(certificates.from_pem(tls.ca.read_bytes())) != authority.fingerprint:
            raise ConfigError(f"{tls.directory} is of another cluster than {authority.directory}: remove the one that is not wanted")
        if identity_of(tls).host != host:
            raise ConfigError(f"this cluster's master is {identity_of(tls).host}, not {host}: leave --name out, or give that one")
        own_key(tls)
        renew_own_if_due(tls, authority)
    return Founded(host, authority.directory, tls, authority.fingerprint, tuple(authority.addresses()), is_new=not is_made)


def invite(settings: Settings, ttl_s: float, uses: int, addresses: Sequence[str] = ()) -> Invited:
    """Make a line to paste on another host. addresses: of the master, host or host:port; none: those of init(), else this machine's.

    Raises: MissingSetting: there is no authority here. ConfigError: a number out of its range, or no address.
    """
    authority = _authority(settings)
    told = [with_port(address, settings.join_port) for address in addresses] or list(authority.addresses())
    told = told or [with_port(address, settings.join_port) for address in own_addresses()]
    token = authority.invite(ttl_s, uses, told)
    until_at = datetime.now(UTC) + timedelta(seconds=ttl_s)
    return Invited(token, until_at, uses, tuple(told))


def withdraw(settings: Settings) -> int:
    """Make every invite void, and return how many were open. Raises MissingSetting: there is no authority here."""
    return _authority(settings).withdraw()


def hosts(settings: Settings) -> Sequence[HostRecord]:
    """Every host that this master's authority ever admitted. Raises MissingSetting: there is none here."""
    return _authority(settings).hosts()


def remove(settings: Settings, host: str) -> int:
    """As Authority.remove(): a running broker refuses the host at once, and has its connections closed."""
    return _authority(settings).remove(host)


def is_reached(settings: Settings, addresses: Sequence[str]) -> bool:
    """Does anything listen, on this machine or at one of these addresses, where hosts join? Blocks for up to ANSWER_S for each.

    addresses: host:port, of an invite.
    """
    for address in (f"{LOOPBACK}:{settings.join_port}", *addresses):  # loopback: one that listens everywhere answers here at once
        host, _, port = address.rpartition(":")
        with suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
            return True
    return False


def _authority(settings: Settings) -> Authority:
    """Raises: ConfigError: this host is of another machine's cluster. MissingSetting: there is no authority."""
    if not (home_of(settings) / AUTHORITY_DIR).exists() and (master := joined_master(settings)):
        raise ConfigError(f"this is a host of {master}: type it there, on the master, which has the cluster's authority")
    return Authority.open(home_of(settings))


def _master_name(authority: Authority) -> str | None:
    return next((host.name for host in authority.hosts() if host.is_master), None)
