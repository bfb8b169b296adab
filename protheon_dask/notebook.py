"""The face of notebooks and scripts: a cluster on this machine for the time of a block."""

from __future__ import annotations

import logging

from protheon_dask.run import api
from protheon_dask.run.preview import preview

EMBEDDED = "embedded"
"""In the place of a database's URL: the embedded one, whatever the environment says (as --into has it)."""

logger = logging.getLogger(__name__)


def local(into: str | None = None, workers: int | None = None) -> api.LocalCluster:
    """A cluster on this machine for the time of a ``with`` block: PostgreSQL if none is named, scheduler, broker and workers.

    One that this user's commands or scripts run already over the same database is used, with its workers.

    into:      a PostgreSQL URL or ``embedded``; None: as the commands find it (PROTHEON_DATABASE_URL, the settings file, DATABASE_URL,
               libpq's variables, else the embedded one).
    workers:   processes of one thread each; None: one for each CPU.
    Raises:    ConfigError, here or at the block's begin: settings, URL, rights, a cluster that does not start; LedgerUnavailable.
    Guarantee: nothing runs before the block begins. What it started ends with it, however it ends; the data and the tasks that have
               not ended stay in the database. What happens is told to this module's logger, at INFO.
    """
    effective = api.read_settings({})
    database = api.resolve_database(effective, into, embedded=into == EMBEDDED)
    return api.local(effective, database, workers=workers, on_event=_log_event)


def _log_event(told: str) -> None:
    logger.info("local.event", extra={"told": told})


__all__ = ["EMBEDDED", "local", "preview"]
