"""What a host asks its master for before it works: settings, the database and the cluster's key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from protheon_dask import __version__
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import Enrolment
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, MissingSetting
from protheon_dask.run.versions import Disagreement, disagreements, own_versions


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a host works with. settings: its own, with those of the master that must agree, and the database's URL."""

    settings: Settings
    scheduler_address: str
    warnings: tuple[Disagreement, ...] = ()
    is_told_database: bool = False  # the URL is the master's, as that one writes it
    key: bytes | None = field(default=None, repr=False)
    is_scheduler_everywhere: bool = False  # it listens on all addresses of its machine


def enrol(settings: Settings, broker: BrokerClient, host: str, into: str = "") -> Enrolled:
    """Ask the master, and see that its versions fit. into: the database's URL as this host is to reach it, whatever the master says.

    Raises: BrokerUnavailable: ask again. NotAllowed: this host was removed. ConfigError: versions do not fit. MissingSetting: nobody
            says which database.
    """
    own = own_versions()
    told = broker.enrol(host, own)
    found = disagreements(__version__, own, told.version, told.versions)
    if fatal := [item for item in found if item.is_fatal]:
        raise ConfigError(f"{'; '.join(map(str, fatal))}: install the same on host {host} as on the master, then start it again")
    url = into or told.database_url or settings.database_url
    if not url:
        raise MissingSetting(
            f"the master at {broker.address} gives no database URL to a host that shows no certificate: "
            "give one by --into or PROTHEON_DATABASE_URL, or join the cluster (`protheon worker --join TOKEN`)"
        )
    is_told = not into and bool(told.database_url)
    agreed = with_agreed(settings, told)
    return Enrolled(
        replace(agreed, database_url=url, direct_url=""),
        told.scheduler_address,
        tuple(found),
        is_told,
        told.cluster_key or None,
        told.is_scheduler_everywhere,
    )


def with_agreed(settings: Settings, told: Enrolment) -> Settings:
    """These settings with the master's in the place of those that must agree. Those that this version does not know are left out."""
    own: Mapping[str, Any] = {item.name: getattr(settings, item.name) for item in fields(Settings)}
    agreed = {name: value for name, value in told.settings.items() if name in own}
    return Settings.read({}, {}, {**own, **agreed}).settings
