"""Work on somebody else's Dask cluster: its workers need no preload, the broker alone is ours, and ends with who started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from protheon_dask.broker.cluster_wire import EVERYWHERE
from protheon_dask.broker.peers import is_loopback
from protheon_dask.config import Effective, Settings
from protheon_dask.errors import ConfigError, ProtheonError
from protheon_dask.run.addresses import LOOPBACK, own_addresses
from protheon_dask.run.local import ANNOUNCEMENTS, Database, LocalCluster, free_port
from protheon_dask.run.master import Master
from protheon_dask.run.parts import START_S, Places, Site, bound_port
from protheon_dask.run.trust.identity import security_environment
from protheon_dask.run.trust.keys import make_key, read_key

if TYPE_CHECKING:
    from distributed import Client, Security

GUEST_KEY_FILE: Final = "guest.key"
"""Below home: signs pipelines that travel by value to workers of somebody else."""


class GuestCluster(LocalCluster):
    """A broker of ours on somebody else's Dask scheduler, for the time of a block. The scheduler and its workers stay as they are."""

    def __init__(
        self,
        effective: Effective,
        database: Database,
        scheduler: str,
        *,
        security: Security | None = None,
        bind: str | None = None,
        is_insecure: bool = False,
        takes_over: bool = False,
        on_event: Callable[[str], None],
    ) -> None:
        """scheduler: its address. security: how Dask is spoken to there. bind: the address of this machine that its workers reach.

        Raises ConfigError: scheduler or bind is none, or other hosts would be let in without that being asked for.
        """
        super().__init__(effective, database, workers=None, force_own=True, takes_over=takes_over, on_event=on_event)
        place = urlsplit(scheduler)
        if place.scheme not in ("tcp", "tls") or not place.hostname or place.port is None:
            raise ConfigError(f"{scheduler!r} is no address of a Dask scheduler: give tcp://host:8786, as its client.scheduler.address")
        is_here = is_loopback(bind or place.hostname)
        if not is_here and not is_insecure:
            raise ConfigError(
                f"workers of {scheduler} on other hosts fetch their chunks from here, in plaintext, and anyone who reaches that port can "
                "submit code to run: say insecure=True if that network is yours alone, or start `protheon master` with certificates"
            )
        if bind is not None and (bind in EVERYWHERE or bound_port(0, bind) is None):
            raise ConfigError(f"bind={bind!r} is no address of this machine: give the one by which the workers reach it")
        if not is_here and database.embedded:
            raise ConfigError(
                "the embedded PostgreSQL serves this machine alone: give into='postgresql://user@HOST:5432/database', "
                "which the workers reach"
            )
        self._scheduler, self._security = scheduler, security
        self._bind = bind or (LOOPBACK if is_here else _own_host())

    def _start_all(self, settings: Settings, env: Mapping[str, str]) -> None:
        key_file = make_key(self._home, GUEST_KEY_FILE)
        broker_port = free_port(settings.broker_port, self._bind)
        places = Places(
            bind=self._bind,
            scheduler=self._scheduler,
            broker_port=broker_port,
            scheduler_port=0,
            dashboard_port=0,
            http_port=free_port(settings.http_port, but_not=[broker_port]),
        )
        self._ports = [places.broker_port, places.http_port]
        self.http_link = f"http://{LOOPBACK}:{places.http_port}"
        proof = {} if self._security is None else security_environment(self._security)
        site = Site(self._home, self.settings, {**env, **proof, "PROTHEON_KEY_FILE": str(key_file)}, places)
        takes_over = self._takes_over or any(self._home.glob(ANNOUNCEMENTS))
        broker = self._processes.start(site.broker(ephemeral=True, takes_over=takes_over), self._stack)
        try:
            broker.first_line(START_S)
        except ProtheonError:
            self.check()
            raise
        master = Master(places.broker_address, read_key(key_file), check=self.check, comes_back=lambda: True)
        self.client = self._stack.enter_context(master)

    def _told_ready(self, seconds: float) -> str:
        return f"a broker for the Dask scheduler at {self._scheduler} is ready after {seconds:.1f} s"


def dask_of(scheduler: str | Client, security: Security | None) -> tuple[str, Security | None]:
    """Address of a scheduler, and how it is spoken to, also of a client of Dask's. Raises ConfigError: it is none, or is closed."""
    if isinstance(scheduler, str):
        return scheduler, security
    from distributed import Client

    if not isinstance(scheduler, Client):
        raise ConfigError(f"scheduler= takes an address or a distributed.Client, not a {type(scheduler).__name__}: try its get_client()")
    if scheduler.scheduler is None:
        raise ConfigError("scheduler= is a client of Dask's that is closed: give one that is connected, or the scheduler's address")
    return str(scheduler.scheduler.address), security or scheduler.security


def _own_host() -> str:
    found = next(iter(own_addresses()), None)
    if found is None:
        raise ConfigError("this machine has no address that workers on other hosts could reach")
    return found
