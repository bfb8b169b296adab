"""The face of notebooks and scripts: a cluster on this machine, or one that runs already, as one object."""

from __future__ import annotations

import atexit
import logging
import sys
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from protheon_dask.errors import ConfigError
from protheon_dask.run import api
from protheon_dask.run.attaching import attach, own_master
from protheon_dask.run.cluster import Cluster, Runs
from protheon_dask.run.frames import MoreRows
from protheon_dask.run.guest import GuestCluster, dask_of
from protheon_dask.run.handle import Run
from protheon_dask.run.link import Link
from protheon_dask.run.live import is_notebook
from protheon_dask.run.preview import preview

if TYPE_CHECKING:
    from distributed import Client, Security

EMBEDDED: Final = "embedded"
"""In the place of a database's URL: the embedded one, whatever the environment says (as --into has it)."""

logger = logging.getLogger(__name__)

_open: dict[tuple[str, str], _Shared] = {}
"""Clusters of this process, by home and database: a cell that is run again finds the one that it made before."""
_guests: list[Cluster] = []
"""Clusters whose Dask is somebody else's."""
_lock = Lock()


def local(workers: int | None = None, into: str | None = None, **settings: Any) -> Cluster:
    """A cluster on this machine, started at once: PostgreSQL if none is named, scheduler, broker and workers.

    One that this user's commands, kernels or scripts run already over the same database is used, with its workers; called again in
    the same process, it gives the same object.

    workers:   processes of one thread each; None: one for each CPU.
    into:      a PostgreSQL URL or ``embedded``; None: as the commands find it (PROTHEON_DATABASE_URL, the settings file, DATABASE_URL,
               libpq's variables, else the embedded one).
    settings:  as `protheon config` names them, such as ``lease_s=30``.
    Raises:    ConfigError: settings, URL, rights, a cluster that does not start; LedgerUnavailable. Nothing is left running.
    Guarantee: it ends by close(), with its ``with`` block, or with this process, however that ends. The data, and the runs and tasks
               that have not ended, stay in the database. What happens is told to this module's logger, at INFO, and, while it
               starts, on stderr, or in the cell.
    """
    effective = api.read_settings(settings)
    database = api.resolve_database(effective, into, embedded=into == EMBEDDED)

    is_starting = True

    def on_event(told: str) -> None:
        _log_event(told)
        if is_starting:
            # a notebook shows stderr as a fault
            print(told, file=sys.stdout if is_notebook() else sys.stderr, flush=True)

    def start(takes_over: bool) -> api.LocalCluster:
        return api.local(effective, database, workers=workers, takes_over=takes_over, on_event=on_event)

    place = (effective.settings.home, database.url or str(database.embedded_dir))
    with _lock:
        known = _open.get(place)
        if known is not None and not known.is_closed and known.has_failed:
            known.close(wait_others=False)
        is_new = known is None or known.is_closed
        if known is None or is_new:
            known = _open[place] = _Shared(Link.started(start, say=_say))
            is_starting = False
        known.n_users += 1
    if workers is not None and not (is_new and known.is_ours):
        _say("workers= is left aside: the cluster that runs already has workers of its own")
    return known


def connect(
    address: str | None = None,
    into: str | None = None,
    *,
    scheduler: str | Client | None = None,
    security: Security | None = None,
    bind: str | None = None,
    insecure: bool = False,
    **settings: Any,
) -> Cluster:
    """A cluster whose master runs already, at this gRPC address (``host:port``; the port left out is 50051).

    address:   left out, with no scheduler either: the master whose cluster this host has joined.
    scheduler: in the place of address: of somebody else's Dask cluster, such as ``tcp://host:8786``, or a ``distributed.Client`` of it. The
               broker alone is started, here, and ends as that of local() does. protheon-dask is installed on the workers, and
               PROTHEON_DATABASE_URL is in their environment: no database's URL travels through their Dask. They need no preload.
    security:  with a scheduler at ``tls://``: Dask's own object, by which a client connects there; None: the client's, or as Dask's
               configuration says.
    bind:      with a scheduler: the address of this machine at which its workers fetch chunks, where it has several; None: loopback for
               a scheduler on loopback, else the address that the default route begins at.
    insecure:  with a scheduler of another host: its workers fetch chunks from here in plaintext. Anyone who reaches that port can submit
               code to run.
    into:      the PostgreSQL of its ledger, for reports, ``sql`` and ``verify`` without a way through the master; None: the one that the
               commands would find, if it is that ledger. Reports work without any. With a scheduler it is the ledger itself: one that
               no other master leads, such as that which stands on this machine.
    settings:  as for local().
    Raises:    BrokerUnavailable: no master answers there. ConfigError: an address, or into is another database than the master's.
    Guarantee: the master, its runs and its workers stay as they are when this object is closed.
    """
    effective = api.read_settings(settings)
    if address is None and scheduler is None:
        address = own_master(effective.settings)
    try:
        database = api.resolve_database(effective, into, embedded=into == EMBEDDED)
    except api.SeveralMasters:
        if address is None:
            raise
        database = api.resolve_database(effective, None, embedded=True)  # the address says which is meant, and reports go through it
    if (address is None) == (scheduler is None):
        raise ConfigError("connect() takes the gRPC address of a master, or scheduler=, the address of a Dask cluster: give one of the two")
    if scheduler is None and (security is not None or bind is not None):
        raise ConfigError("security= and bind= belong to scheduler=: a master is reached by this host's certificate")
    if address is not None:
        return attach(effective, address, database, is_given=into is not None, say=_say)
    assert scheduler is not None, "one of the two was given"
    dask_address, proof = dask_of(scheduler, security)

    def start(takes_over: bool) -> api.LocalCluster:
        how = {"is_insecure": insecure, "takes_over": takes_over}
        return GuestCluster(effective, database, dask_address, security=proof, bind=bind, on_event=_log_event, **how)

    made = Cluster(Link.started(start, say=_say), security=proof)
    with _lock:
        _guests[:] = [*(guest for guest in _guests if not guest.is_closed), made]
    return made


class _Shared(Cluster):
    """The cluster of this process over one database: of several blocks and names that share it the last one ends it."""

    n_users = 0

    @property
    def has_failed(self) -> bool:
        """As Link.has_failed: the cell that made it makes another one."""
        return self._link.has_failed

    def __exit__(self, kind: Any, value: BaseException | None, where: Any) -> None:
        self.n_users -= 1
        if self.n_users <= 0:
            super().__exit__(kind, value, where)


@atexit.register
def _close_all() -> None:
    """What the process leaves open ends with it, politely. Runs of others are waited for, unless a person has had enough."""
    was_stopped = issubclass(getattr(sys, "last_type", None) or object, KeyboardInterrupt)
    for cluster in [*_open.values(), *_guests]:
        cluster.close(wait_others=not was_stopped)


def _log_event(told: str) -> None:
    logger.info("local.event", extra={"told": told})


def _say(told: str) -> None:
    print(told, file=sys.stderr, flush=True)


__all__ = ["EMBEDDED", "Cluster", "MoreRows", "Run", "Runs", "connect", "local", "preview"]
