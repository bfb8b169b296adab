"""What the ledger knows of hosts: which get no work for now, where an attempt was, and what is given back to its task.

Each function takes the connection first and never commits; a coordinator's writes are fenced by its epoch. ``now`` moves time in
tests; None is the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from protheon_dask.errors import LeadershipLost
from protheon_dask.ledger.rows import rows
from protheon_dask.model import Cost, Outcome, Seen


@dataclass(frozen=True, slots=True)
class HostAside:
    """A host that gets no work until until_at, and is then tried with one task."""

    host: str
    reason: str  # what failed there last, for people
    set_aside_at: datetime
    until_at: datetime
    is_due: bool  # until_at is over: it is to be tried


def hosts_aside(conn: psycopg.Connection, *, now: datetime | None = None) -> list[HostAside]:
    """The hosts that are set aside."""
    return [HostAside(**row) for row in rows(conn, "hosts_aside", {"now": now})]


def aside_words(aside: Sequence[HostAside]) -> str | None:
    """Who gets no work, for people; None: nobody is set aside."""
    told = [
        f"host {item.host} is set aside until {item.until_at:%H:%M:%S} UTC: {item.reason}"
        if not item.is_due
        else f"host {item.host} was set aside and is tried with one chunk: {item.reason}"
        for item in aside
    ]
    return "; ".join(told) or None


def set_host_aside(conn: psycopg.Connection, epoch: int, host: str, reason: str, aside_s: float, *, now: datetime | None = None) -> None:
    """Give a host no work for aside_s. Raises LeadershipLost: nothing was written."""
    params = {"epoch": epoch, "host": host, "reason": reason.replace("\0", "\\0"), "aside_s": aside_s, "now": now}
    if not rows(conn, "set_host_aside", params):
        raise LeadershipLost(epoch)


def readmit_host(conn: psycopg.Connection, epoch: int, host: str) -> bool:
    """Let a host work again; False: it was not aside, or another broker leads."""
    return bool(rows(conn, "readmit_host", {"epoch": epoch, "host": host}))


@dataclass(frozen=True, slots=True)
class GivenBack:
    """An attempt whose cost was taken off its task, or is to be asked for again."""

    seen: Seen
    is_back: bool  # its task had died of it, and is ready again
    is_locked: bool = False  # another transaction has its task: nothing was taken off yet


def give_back(
    conn: psycopg.Connection, attempts: Sequence[Seen], costs: Sequence[Cost], *, epoch: int | None = None, now: datetime | None = None
) -> list[GivenBack]:
    """Take what these ended attempts cost off their tasks; return those of which that was done now, and those that are locked.

    epoch:     of the coordinator that judges; None: the attempts' own process says that it lives.
    Guarantee: idempotent: an attempt is given back once. A task that died of it is ready again, its dead letter closed as replayed,
               unless its run has ended, its load is retired or a person gave it up. Nothing happens while another broker leads.
               No task is waited for: one that is locked is to be asked for again.
    """
    params = {
        "task_ids": [seen.task_id for seen in attempts],
        "attempt_nos": [seen.attempt_no for seen in attempts],
        "costs": list(costs),
        "epoch": epoch,
        "now": now,
    }
    return [GivenBack(Seen(row["task_id"], row["attempt_no"]), row["is_back"], row["is_locked"]) for row in rows(conn, "give_back", params)]


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """Where an attempt was, and how it ended."""

    host: str
    run_id: int | None
    outcome: Outcome
    cost: Cost
    message: str | None
    given_back: bool


def ended_attempt(conn: psycopg.Connection, seen: Seen) -> EndedAttempt | None:
    """How an attempt ended; None: it was never opened, or is open still."""
    found = rows(conn, "ended_attempt", {"task_id": seen.task_id, "attempt_no": seen.attempt_no})
    if not found:
        return None
    row = found[0]
    cost = Cost(row["cost"] or Cost.NOTHING)
    return EndedAttempt(row["host"], row["run_id"], Outcome(row["outcome"]), cost, row["message"], row["given_back"])


@dataclass(frozen=True, slots=True)
class Holder:
    """The worker process that has an attempt open."""

    worker: str  # its name with Dask
    host: str
    process_uuid: UUID
    run_id: int | None


def holder_of(conn: psycopg.Connection, seen: Seen) -> Holder | None:
    """Who has this attempt open; None: nobody."""
    found = rows(conn, "holder_of", {"task_id": seen.task_id, "attempt_no": seen.attempt_no})
    return Holder(**found[0]) if found else None
