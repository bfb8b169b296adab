"""Dead letters for people: what gave up and how each attempt went, what is taken up again, and what is given up for good."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protheon_dask.broker.wire import DeadLetters
from protheon_dask.config import Settings
from protheon_dask.ledger import dead_letters, reports, runs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.ledger.migrate import check_current
from protheon_dask.model import TaskState
from protheon_dask.run.settings import workspace_of
from protheon_dask.workspace.chunkfile import chunk_path

logger = logging.getLogger(__name__)

APPLICATION = "protheon-dead-letters"


def replay(conn: Connection, epoch: int, run_id: int, task_ids: Sequence[int], *, ephemeral: bool) -> DeadLetters:
    """Make dead tasks ready again in one transaction, as ledger.dead_letters.replay says: those named, or all open ones of a run."""
    with conn.transaction():
        chosen = dead_letters.choose(conn, run_id, task_ids)
        done = dead_letters.replay(conn, epoch, chosen, ephemeral=ephemeral)
    logger.info("task.replay", extra={"task_ids": done.task_ids, "run_ids": done.run_ids})
    return DeadLetters(done.task_ids, done.run_ids, done.notices)


def purge(conn: Connection, run_id: int, task_ids: Sequence[int], store: Path | None = None) -> DeadLetters:
    """Give dead tasks up in one transaction; their bytes are deleted by the broker's next look, or by its start if none runs.

    store: the directory of the ledger's chunk files, where no broker runs to look: they are deleted at once.
    """
    with conn.transaction():
        chosen = dead_letters.choose(conn, run_id, task_ids)
        done, files = dead_letters.purge(conn, chosen)
    logger.info("task.purge", extra={"task_ids": done.task_ids})
    if store is not None:
        for file in files:
            chunk_path(store, file.load_id, file.first_line, file.generation).unlink(missing_ok=True)
    return DeadLetters(done.task_ids, done.run_ids, done.notices)


def purge_dead_letters(url: str, settings: Settings, run_id: int | None = None, task_ids: Sequence[int] = ()) -> DeadLetters:
    """Give dead tasks up in the ledger, without a master: those named, or all open ones of a run, of the latest by default.

    settings: name the workspace of this machine, whose files of them are deleted; elsewhere they go when a master starts there.
    Raises:    NotFound, MigrationPending, LedgerUnavailable.
    Guarantee: idempotent. What was loaded stays, and so do the letters: the run's account still says what is not loaded.
    """
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        store = workspace_of(settings) / str(reports.status(conn)["ledger_id"])
        return purge(conn, run_id or 0, task_ids, store)


def list_dead_letters(
    url: str, run_id: int | None = None, *, task_id: int | None = None, queue: bool = False, everything: bool = False, limit: int = 1_000
) -> list[dict[str, Any]]:
    """Dead letters, newest first: of one task, of the general queue (tasks without a run), or else of a run, of the latest by default.

    everything: those that were replayed or purged, too. Raises: NotFound, MigrationPending, LedgerUnavailable.
    """
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        number = _run_of(conn, run_id, task_id, queue=queue)
        return dead_letters.listed(conn, number, limit, task_id, queue=queue, everything=everything)


def count_dead_letters(url: str, run_id: int | None = None, *, queue: bool = False) -> list[dict[str, Any]]:
    """How many letters there are of a run, or of the general queue, by (status, reason, error_class), the most first."""
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        return dead_letters.counts(conn, _run_of(conn, run_id, None, queue=queue), queue=queue)


def show_dead_letters(
    url: str, run_id: int | None = None, *, task_id: int | None = None, queue: bool = False, everything: bool = False, limit: int = 20
) -> list[dict[str, Any]]:
    """As list_dead_letters(), each with ``attempts``: every attempt at its task, the first one first."""
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        number = _run_of(conn, run_id, task_id, queue=queue)
        letters = dead_letters.listed(conn, number, limit, task_id, queue=queue, everything=everything)
        tried = dead_letters.attempts(conn, sorted({letter["task_id"] for letter in letters}))
    return [{**letter, "attempts": tried[letter["task_id"]]} for letter in letters]


def task_states(url: str, task_ids: Sequence[int]) -> dict[int, TaskState]:
    """Where these tasks stand now; those that there are not are left out."""
    with opened(url, application=APPLICATION) as conn:
        return dead_letters.states(conn, task_ids)


def _run_of(conn: Connection, run_id: int | None, task_id: int | None, *, queue: bool) -> int | None:
    return None if queue or task_id is not None else runs.existing_run(conn, run_id)
