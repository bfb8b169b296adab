"""The verbs of a task: enqueue, claim, renew, complete, release, dead_letter, expire, replay, cancel.

Each takes the connection first, runs its one statement in the caller's transaction and never commits (cancel has two,
in a transaction of its own where the caller has none). Every write about a running attempt is fenced by its attempt_no: no row
back is LeaseLost. ``now`` moves time in tests; None is the database's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from protheon_dask.errors import LeadershipLost, LeaseLost
from protheon_dask.ledger.rows import rows, run
from protheon_dask.ledger.statements import statement
from protheon_dask.model import (
    STAGES,
    ChunkManifest,
    Cost,
    Failed,
    Lease,
    Lines,
    Loaded,
    Outcome,
    RejectedLine,
    Returned,
    Seen,
    StageClock,
    TaskState,
    Worker,
)

KEY_PREFIX = 0x50524F << 40  # "PRO": one-integer advisory locks of tasks; the user's own locks are never met


def advisory_key(task_id: int) -> int:
    """The one-integer advisory lock of a task's data transactions."""
    return KEY_PREFIX | task_id


@dataclass(frozen=True, slots=True)
class Claimed:
    """An opened attempt with all that its work needs. chunk, load_id and path are None for other handlers than ingest.

    replay_of:    the load whose rejects the chunk's lines are; path is then of the source that they came from.
    visibility_s, max_failures: the task's own, where it has them.
    """

    lease: Lease
    run_id: int | None
    handler: str
    payload: Any
    visibility_s: float | None
    max_failures: int | None
    load_id: int | None
    replay_of: int | None
    path: str | None
    chunk: ChunkManifest | None


_MANIFEST = tuple(ChunkManifest.__dataclass_fields__)


def manifest_of(row: Mapping[str, Any]) -> ChunkManifest:
    """The manifest in a row that has its columns."""
    return ChunkManifest(**{name: row[name] for name in _MANIFEST})


def enqueue(conn: psycopg.Connection, epoch: int, load_id: int, manifest: ChunkManifest) -> int:
    """Make a chunk's task and manifest; return the task's id. Raises LeadershipLost: nothing was written.

    Guarantee: idempotent: the chunk that is there already answers, so an event whose COMMIT was not answered is taken again.
    """
    state = TaskState.SUCCEEDED if manifest.oversized else TaskState.READY
    params = {**asdict(manifest), "epoch": epoch, "load_id": load_id, "state": state}
    row = conn.execute(statement("enqueue"), params).fetchone()
    if row is None:
        raise LeadershipLost(epoch)
    return int(row[0])


def claim(
    conn: psycopg.Connection, seen: Seen, worker: Worker, token: UUID, lease_s: float, *, now: datetime | None = None
) -> Claimed | None:
    """Open an attempt, or return the one that token holds already; None: the race is lost and nothing happened."""
    params = {
        "task_id": seen.task_id,
        "attempt_no": seen.attempt_no,
        "token": token,
        "lease_s": lease_s,
        "process_uuid": worker.process_uuid,
        "worker": worker.name,
        "host": worker.host,
        "now": now,
    }
    # Where the first ask, whose reply was lost, was still on its way, this one waited for its row and came too late to see its attempt:
    # it is seen from the next statement on. Else nobody would work on it until its lease ran out.
    found = rows(conn, "claim", params) or rows(conn, "claim", params)
    if not found:
        return None
    [row] = found
    chunk = manifest_of(row) if row["chunk_no"] is not None else None
    lease = Lease(seen.task_id, row["attempt_no"], lease_s)
    names = ("run_id", "handler", "payload", "visibility_s", "max_failures", "load_id", "replay_of", "path")
    return Claimed(lease=lease, chunk=chunk, **{name: row[name] for name in names})


def renew(conn: psycopg.Connection, leases: Sequence[Lease], lease_s: float, *, now: datetime | None = None) -> dict[Lease, bool]:
    """Extend leases in one statement: True is renewed, False is locked (ending just now); a lease that is missing is lost."""
    params = {
        "task_ids": [lease.task_id for lease in leases],
        "attempt_nos": [lease.attempt_no for lease in leases],
        "lease_s": lease_s,
        "now": now,
    }
    answers = {(row["task_id"], row["attempt_no"]): bool(row["renewed"]) for row in rows(conn, "renew", params)}
    return {lease: answers[lease.task_id, lease.attempt_no] for lease in leases if (lease.task_id, lease.attempt_no) in answers}


def check_fence(conn: psycopg.Connection, lease: Lease) -> None:
    """Raise LeaseLost unless the attempt is still the task's own. A look only: complete decides."""
    if conn.execute(statement("fence"), {"task_id": lease.task_id, "attempt_no": lease.attempt_no}).fetchone() is None:
        raise LeaseLost(lease.task_id, lease.attempt_no)


def complete(conn: psycopg.Connection, lease: Lease, done: Loaded | Returned, clock: StageClock, *, now: datetime | None = None) -> None:
    """Write the rows' counts, or a function's result, and close the attempt as succeeded, in the data transaction.

    Raises: LeaseLost: it is no longer ours.
    """
    loaded = done if isinstance(done, Loaded) else Loaded(Lines(), ())
    if loaded.tables:
        conn.execute(
            statement("count_rows"),
            {
                "task_id": lease.task_id,
                "attempt_no": lease.attempt_no,
                "table_names": [count.table for count in loaded.tables],
                "offered": [count.offered for count in loaded.tables],
                "inserted": [count.inserted for count in loaded.tables],
                "updated": [count.updated for count in loaded.tables],
                "ignored": [count.ignored for count in loaded.tables],
                "checksums": [count.checksum for count in loaded.tables],
                "compared": [count.compared for count in loaded.tables],
            },
        )
    params = {
        "task_id": lease.task_id,
        "attempt_no": lease.attempt_no,
        "result": done.result_json if isinstance(done, Returned) else None,
        "loaded": loaded.lines.loaded,
        "filtered": loaded.lines.filtered,
        "rejected": loaded.lines.rejected,
        "blank": loaded.lines.blank,
        "rejected_parts": loaded.lines.rejected_parts,
        "raw_bytes": clock.raw_bytes,
        "wire_bytes": clock.wire_bytes,
        "now": now,
        **{f"{stage}_s": clock.seconds[stage] for stage in STAGES},
    }
    if conn.execute(statement("complete"), params).fetchone() is None:
        raise LeaseLost(lease.task_id, lease.attempt_no)


def note_commit(conn: psycopg.Connection, lease: Lease, clock: StageClock) -> None:
    """Add to a succeeded attempt how long its last statements and its COMMIT took."""
    params = {
        "task_id": lease.task_id,
        "attempt_no": lease.attempt_no,
        "ledger_s": clock.seconds["ledger"],
        "commit_s": clock.seconds["commit"],
    }
    conn.execute(statement("note_commit"), params)


def reject(conn: psycopg.Connection, load_id: int, task_id: int, attempt_no: int, lines: Sequence[RejectedLine]) -> None:
    """Keep refused lines, in the transaction of what refused them."""
    common = {"load_id": load_id, "task_id": task_id, "attempt_no": attempt_no}
    with conn.cursor() as cursor:
        cursor.executemany(
            statement("insert_reject"),
            [
                {
                    **common,
                    "line": line.line_no,
                    "byte_offset": line.byte_offset,
                    "part": line.part,
                    "reason": line.reason,
                    "sqlstate": line.sqlstate,
                    "table_name": line.table,
                    "raw": line.raw,
                    "raw_bytes": line.raw_bytes,
                }
                for line in lines
            ],
        )


def _ending(lease: Lease, failed: Failed, outcome: Outcome, now: datetime | None) -> dict[str, Any]:
    return {
        "task_id": lease.task_id,
        "attempt_no": lease.attempt_no,
        "outcome": outcome,
        "cost": failed.cost,
        "error_class": failed.error_class,
        "message": _storable(failed.message),
        "traceback": _storable(failed.traceback),
        "sqlstate": failed.sqlstate,
        "now": now,
        **{f"{stage}_s": failed.seconds.get(stage, 0.0) for stage in STAGES},
    }


def _storable(text: str | None) -> str | None:
    """PostgreSQL's text holds no NUL; 100 kB of a traceback tell enough."""
    return None if text is None else text.replace("\0", "\\0").encode("utf-8", "replace").decode()[:100_000]


def release(
    conn: psycopg.Connection, lease: Lease, failed: Failed, outcome: Outcome, ready_in_s: float, *, now: datetime | None = None
) -> None:
    """End the attempt without effect; its task is ready again in ready_in_s. LeaseLost if it is no longer ours."""
    params = {**_ending(lease, failed, outcome, now), "ready_in_s": ready_in_s}
    if conn.execute(statement("release"), params).fetchone() is None:
        raise LeaseLost(lease.task_id, lease.attempt_no)


def dead_letter(
    conn: psycopg.Connection, lease: Lease, failed: Failed, outcome: Outcome, reason: str, *, now: datetime | None = None
) -> None:
    """End the attempt without effect and give its task up. LeaseLost if it is no longer ours."""
    params = {**_ending(lease, failed, outcome, now), "reason": reason}
    if conn.execute(statement("dead_letter"), params).fetchone() is None:
        raise LeaseLost(lease.task_id, lease.attempt_no)


@dataclass(frozen=True, slots=True)
class Expiring:
    """A running attempt, locked by expire, and what its task's endings have cost so far."""

    lease: Lease
    known_gone: bool
    spent: Mapping[Cost, int]


def expire(conn: psycopg.Connection, epoch: int, gone: Sequence[Seen], *, now: datetime | None = None) -> list[Expiring]:
    """Lock the attempts that ran out, and those in gone (task and attempt_no), for release or dead_letter in this transaction."""
    params = {
        "epoch": epoch,
        "task_ids": [seen.task_id for seen in gone],
        "attempt_nos": [seen.attempt_no for seen in gone],
        "now": now,
    }
    return [
        Expiring(
            Lease(row["task_id"], row["attempt_no"], 0.0),
            row["known_gone"],
            {Cost.FAILURE: row["failures"], Cost.CRASH: row["crashes"], Cost.LOSS: row["losses"]},
        )
        for row in rows(conn, "expire", params)
    ]


def spent(conn: psycopg.Connection, task_id: int) -> dict[Cost, int]:
    """How often a task has ended at each cost."""
    row = conn.execute(statement("spent"), {"task_id": task_id}).fetchone()
    assert row is not None, f"task {task_id} is in the ledger while it has an attempt"
    return dict(zip((Cost.FAILURE, Cost.CRASH, Cost.LOSS), row, strict=True))


def stuck(conn: psycopg.Connection, grace_s: float, *, now: datetime | None = None) -> list[Seen]:
    """Attempts whose row is held beyond their lease and the grace of a completion."""
    return [Seen(row["task_id"], row["attempt_no"]) for row in rows(conn, "stuck", {"grace_s": grace_s, "now": now})]


def terminate(conn: psycopg.Connection, task_ids: Sequence[int]) -> int:
    """End the backends that hold these tasks' advisory locks; return how many there were."""
    return len(rows(conn, "terminate", {"lock_keys": [advisory_key(task_id) for task_id in task_ids]}))


def replay(conn: psycopg.Connection, load_id: int | None = None, *, task_ids: Sequence[int] = (), now: datetime | None = None) -> list[int]:
    """Make a load's dead and cancelled tasks ready again, or those of task_ids that are dead; return their ids."""
    return [row["task_id"] for row in rows(conn, "replay", {"load_id": load_id, "task_ids": list(task_ids), "now": now})]


def cancel(conn: psycopg.Connection, *, now: datetime | None = None) -> list[Seen]:
    """Cancel what is ready or running of cancelled runs; return the attempts that ran. Repeat until nothing is left."""
    with conn.transaction():
        found = rows(conn, "cancel")
        end_cancelled(conn, [row["task_id"] for row in found], "the run was cancelled", now=now)
    return [Seen(row["task_id"], row["attempt_no"]) for row in found if row["was_running"]]


def end_cancelled(conn: psycopg.Connection, task_ids: Sequence[int], message: str, *, now: datetime | None = None) -> None:
    """End what is open of these tasks, which this transaction has cancelled."""
    if task_ids:
        run(conn, "end_cancelled", {"task_ids": list(task_ids), "message": message, "now": now})


@dataclass(frozen=True, slots=True)
class Ready:
    """A task that may be handed to Dask. load_id and first_line are None for other handlers than ingest."""

    seen: Seen
    handler: str
    load_id: int | None
    first_line: int | None
    failed_on: str | None = None  # the host on which its last attempt ended at a cost


def pick_ready(conn: psycopg.Connection, left_out: Sequence[int], n: int, *, now: datetime | None = None) -> list[Ready]:
    """Up to n tasks that are due and not left out: retries first, then by priority, then the oldest."""
    return [
        Ready(Seen(row["task_id"], row["attempt_no"]), row["handler"], row["load_id"], row["first_line"], row["failed_on"])
        for row in rows(conn, "pick_ready", {"left_out": list(left_out), "n": n, "now": now})
    ]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the ledger says of an attempt whose COMMIT was not answered."""

    committed: bool
    still_ours: bool


def resolve(conn: psycopg.Connection, lease: Lease) -> Resolved:
    """Learn what became of a lost COMMIT; the caller holds the task's advisory lock in this transaction."""
    [row] = rows(conn, "resolve", {"task_id": lease.task_id, "attempt_no": lease.attempt_no})
    ours = row["state"] == TaskState.RUNNING and row["attempt_no"] == lease.attempt_no
    return Resolved(committed=row["outcome"] == Outcome.SUCCEEDED, still_ours=ours)


@dataclass(frozen=True, slots=True)
class Look:
    """Where a task stands. load_id and first_line are None for other handlers than ingest."""

    task_id: int
    state: TaskState
    attempt_no: int
    is_due: bool
    load_id: int | None
    first_line: int | None


def look(conn: psycopg.Connection, task_ids: Sequence[int], *, now: datetime | None = None) -> list[Look]:
    """Where these tasks stand."""
    return [
        Look(row["task_id"], TaskState(row["state"]), row["attempt_no"], row["is_due"], row["load_id"], row["first_line"])
        for row in rows(conn, "look_tasks", {"task_ids": list(task_ids), "now": now})
    ]
