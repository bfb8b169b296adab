"""The broker's answers for tasks of the general queue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from protheon_dask.broker import wire
from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.ledger import tasks
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.pipelines.function import check_json
from protheon_dask.run.find_handler import HandlerCheck

MAX_DELAY_S = 10 * 366 * 86_400.0
"""Ten years: beyond that a delay is a mistake in its unit."""
LEAST_VISIBILITY_S = 1.0
"""Shorter, and a worker that is busy for a moment counts as stuck."""
SMALLINT = 32_767
MAX_REQUEST_ID_CHARS = 200


class TaskDesk:
    """Answers for tasks. Thread-safe: a connection for each call.

    on_ready: called when a task may be dispatched.
    """

    def __init__(self, url: str, on_ready: Callable[[], None]) -> None:
        self._url, self._on_ready, self._handlers = url, on_ready, HandlerCheck()

    def submit(self, submission: wire.TaskSubmission) -> wire.TaskView:
        """Put a task into the queue.

        Raises:    ConfigError: every number that is out of its range, a payload that is no JSON, or a handler that is known to be none.
        Guarantee: the task is in the ledger when this returns. The same request_id again returns the same task.
        """
        if problems := [*_problems(submission)]:
            raise ConfigError(f"task of {submission.handler!r}: {'; '.join(problems)}")
        check_json(submission.payload_json, f"the payload for {submission.handler}")
        self._handlers.check(submission.handler)
        new = tasks.NewTask(
            handler=submission.handler,
            payload=submission.payload_json,
            priority=submission.priority,
            delay_s=submission.delay_s,
            visibility_s=submission.visibility_timeout_s or None,
            max_failures=submission.max_failures or None,
            request_id=submission.request_id or None,
        )
        with self._connected() as conn:
            view = _view(conn, tasks.enqueue(conn, new))
        self._on_ready()
        return view

    def get(self, task_id: int) -> wire.TaskView:
        """The task as it is now; of a chunk too. Raises NotFound."""
        with self._connected() as conn:
            return _view(conn, task_id)

    def ended(self, task_ids: Sequence[int]) -> Iterable[wire.TaskView]:
        """Those of these tasks that have ended."""
        with self._connected() as conn:
            return [_of_record(record) for record in tasks.records(conn, task_ids, only_ended=True)]

    def cancel(self, task_id: int) -> wire.TaskView:
        """Cancel a task, ready or running, and return it as it is then. Idempotent: what has ended stays as it is.

        Raises: NotFound; ConfigError: it is a chunk; LedgerUnavailable: it is being completed by a worker that says nothing; ask again.
        """
        with self._connected() as conn:
            tasks.cancel(conn, task_id)
            [*found] = tasks.records(conn, [task_id])
            if found and found[0].load_id is not None:
                raise ConfigError(f"task {task_id} is a chunk of load {found[0].load_id}: cancel its run (protheon cancel)")
            return _view(conn, task_id)

    def _connected(self) -> AbstractContextManager[Connection]:
        return opened(self._url, application="protheon-broker")


def _problems(submission: wire.TaskSubmission) -> Iterable[str]:
    delay_s, visibility_s = submission.delay_s, submission.visibility_timeout_s
    if not 0 <= delay_s <= MAX_DELAY_S:
        yield f"delay_s={delay_s:g} must be within 0 and {MAX_DELAY_S:g}, in seconds"
    if visibility_s and not (math.isfinite(visibility_s) and visibility_s >= LEAST_VISIBILITY_S):
        yield f"visibility_timeout_s={visibility_s:g} must be at least {LEAST_VISIBILITY_S:g}, or 0 for the cluster's stall_s"
    if not -SMALLINT - 1 <= submission.priority <= SMALLINT:
        yield f"priority={submission.priority} must be within {-SMALLINT - 1} and {SMALLINT}"
    if not 0 <= submission.max_failures <= SMALLINT:
        yield f"max_failures={submission.max_failures} must be within 1 and {SMALLINT}, or 0 for the cluster's dead_at_failures"
    if len(submission.request_id) > MAX_REQUEST_ID_CHARS or not submission.request_id.isprintable():
        yield f"request_id must be at most {MAX_REQUEST_ID_CHARS} printable characters"


def _view(conn: Connection, task_id: int) -> wire.TaskView:
    found = tasks.records(conn, [task_id])
    if not found:
        raise NotFound(f"there is no task {task_id}")
    return _of_record(found[0])


def _of_record(record: tasks.TaskRecord) -> wire.TaskView:
    return wire.TaskView(
        task_id=record.task_id,
        handler=record.handler,
        state=record.state,
        attempt_no=record.attempt_no,
        payload_json=record.payload_json or "null",
        result_json=record.result_json,
        error_class=record.error_class,
        message=record.message,
        submitted_at=record.submitted_at,
        ready_at=record.ready_at,
        ended_at=record.ended_at,
    )
