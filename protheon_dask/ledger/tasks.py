"""Tasks of the general queue, for those who submit them; workers and the coordinator use the verbs, as for chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import psycopg

from protheon_dask.errors import ConfigError
from protheon_dask.ledger import verbs
from protheon_dask.ledger.rows import rows
from protheon_dask.model import TaskState

CANCEL_WAIT_MS = "5000"
"""How long a cancellation waits for a row that is being claimed or completed: below the deadline of the call that asks for it."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """What makes a task; None: as the settings of the cluster say."""

    handler: str
    payload: str  # JSON
    priority: int
    delay_s: float
    visibility_s: float | None
    max_failures: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as it is. JSON is text; payload_json is None for a chunk."""

    task_id: int
    handler: str
    load_id: int | None  # of a chunk
    state: TaskState
    attempt_no: int
    payload_json: str | None
    result_json: str | None
    error_class: str | None
    message: str | None
    submitted_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None


def enqueue(conn: psycopg.Connection, new: NewTask, *, now: datetime | None = None) -> int:
    """Make a task, or find the one that this request_id made; return its id.

    Raises:    ConfigError: the request_id names a task with another content.
    Guarantee: one task for a request_id, however many ask at once. Needs no leadership: tasks without a run are always allowed.
    """
    params = asdict(new)
    if found := rows(conn, "enqueue_task", {**params, "now": now}):
        return int(found[0]["task_id"])
    [row] = rows(conn, "task_of_request", params)
    if not row["is_same"]:
        raise ConfigError(
            f"request {new.request_id!r} made task {row['task_id']}, with another handler, payload or option: "
            "give a new task a new request_id"
        )
    return int(row["task_id"])


def records(conn: psycopg.Connection, task_ids: Sequence[int], *, only_ended: bool = False) -> list[TaskRecord]:
    """Those of these tasks that there are, or those of them that have ended (succeeded, dead or cancelled)."""
    found = rows(conn, "report_tasks", {"task_ids": list(task_ids), "only_ended": only_ended})
    return [TaskRecord(**{**row, "state": TaskState(row["state"])}) for row in found]


def cancel(conn: psycopg.Connection, task_id: int, *, now: datetime | None = None) -> bool:
    """Cancel a task that is ready or running; False: it had ended, or is none of the general queue.

    Raises:    psycopg.errors.LockNotAvailable: it is being completed for CANCEL_WAIT_MS by a worker that says nothing more.
    Guarantee: an attempt that ran can write nothing any more. Idempotent.
    """
    with conn.transaction():
        conn.execute("SELECT set_config('lock_timeout', %s, true)", (CANCEL_WAIT_MS,))
        found = rows(conn, "cancel_task", {"task_id": task_id})
        verbs.end_cancelled(conn, [row["task_id"] for row in found], "the task was cancelled", now=now)
    return bool(found)
