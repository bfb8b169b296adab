"""What a picture of the cluster asks of the ledger, every second: sums that are kept by the asker, so that a look costs what is at work.

Functions take the connection first; nothing here writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import psycopg

from protheon_dask.ledger.rows import rows
from protheon_dask.model import Outcome

AFTER: Final = (Outcome.FAILED, Outcome.RELEASED, Outcome.CRASHED, Outcome.EXPIRED, Outcome.CANCELLED)
"""How an attempt may have ended after which its task was claimed again."""


@dataclass(frozen=True, slots=True)
class TaskSums:
    """Tasks by state, and what their succeeded attempts did. rows: offered. retries: attempts that were followed by another."""

    ready: int = 0
    running: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    lines: int = 0
    raw_bytes: int = 0
    rejects: int = 0
    rows: int = 0
    retries: tuple[int, ...] = (0,) * len(AFTER)  # as AFTER

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From a row of a statement; what it does not tell is 0."""
        told = {name: row[name] for name in _COUNTED if name in row}
        return cls(**told, retries=tuple(row[f"after_{outcome}"] for outcome in AFTER))

    def plus(self, other: TaskSums) -> TaskSums:
        counted = {name: getattr(self, name) + getattr(other, name) for name in _COUNTED}
        return TaskSums(**counted, retries=tuple(a + b for a, b in zip(self.retries, other.retries, strict=True)))


_COUNTED: Final = ("ready", "running", "succeeded", "dead", "cancelled", "lines", "raw_bytes", "rejects", "rows")


@dataclass(frozen=True, slots=True)
class LoadSums:
    """One load. is_finished: nothing of it changes any more. is_open: it is at work, or its run is paused."""

    load_id: int
    is_finished: bool
    is_open: bool
    oldest_ready_s: float | None  # how long its oldest chunk waits that may be taken
    tasks: TaskSums


@dataclass(frozen=True, slots=True)
class LedgerSums:
    """What concerns no single load."""

    at: datetime  # the database's clock
    files: int
    files_completed: int
    wire_bytes: int
    dead_letters: int
    general_ready: int
    general_running: int
    oldest_ready_s: float | None  # of these tasks


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run that a picture shows. mark: its statistics are as they were while this is, once it is not live."""

    run_id: int
    is_live: bool
    mark: str


def load_sums(conn: psycopg.Connection, known: Collection[int], since: datetime | None) -> list[LoadSums]:
    """Loads that may have changed: those that are open, those that were (known), and those that were finished after since.

    since None: all loads of the ledger.
    """
    found = rows(conn, "picture_loads", {"known": list(known), "since": since})
    return [LoadSums(row["id"], row["is_finished"], row["is_open"], row["oldest_ready_s"], TaskSums.of(row)) for row in found]


def ledger_sums(conn: psycopg.Connection) -> LedgerSums:
    """What concerns no single load."""
    [row] = rows(conn, "picture_ledger")
    return LedgerSums(**row)


def general_sums(conn: psycopg.Connection) -> TaskSums:
    """Tasks of the general queue that have ended."""
    [row] = rows(conn, "picture_tasks")
    return TaskSums.of(row)


def shown_runs(conn: psycopg.Connection, *, newest: int, live: int) -> list[ShownRun]:
    """The runs of a picture, the newest first."""
    return [ShownRun(row["id"], row["is_live"], row["mark"]) for row in rows(conn, "picture_runs", {"newest": newest, "live": live})]
