"""What the campaign sees in the ledger, by plain SQL on a connection that no fault touches but the server's own end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import psycopg

PATIENCE_S = 40.0
"""How long a question waits for a server that was stopped on purpose."""
TASK_LOCKS = "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = x'50524F00'::bigint AND objsubid = 1"
"""Tasks with an open data transaction (DESIGN 6)."""


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt that runs at this moment."""

    task_id: int
    attempt_no: int
    worker: str
    host: str
    age_s: float
    charged: int  # crashes and losses of its task
    in_transaction: bool

    @property
    def pair(self) -> tuple[int, int]:
        return self.task_id, self.attempt_no


class Ledger:
    """Questions from any thread, one at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._conn: psycopg.Connection | None = None

    def ask(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = (), *, patience_s: float = PATIENCE_S) -> list[tuple[Any, ...]]:
        """Rows of a query, as soon as the server answers. Raises psycopg.OperationalError: not within patience_s."""
        end_at = time.monotonic() + patience_s
        while True:
            with self._lock:
                try:
                    if self._conn is None or self._conn.closed:
                        self._conn = psycopg.connect(self._url, autocommit=True, application_name="chaos", connect_timeout=2)
                    return self._conn.execute(sql.encode(), params).fetchall()
                except psycopg.OperationalError:
                    self._close()
                    if time.monotonic() > end_at:
                        raise
            time.sleep(0.05)

    def open_attempts(self) -> list[OpenAttempt]:
        """All that run now; none while the server is away."""
        sql = f"""
            SELECT attempt.task_id, attempt.attempt_no, attempt.worker, attempt.host,
                   extract(epoch FROM clock_timestamp() - attempt.started_at)::float8, task.crashes + task.losses,
                   attempt.task_id IN ({TASK_LOCKS})
              FROM protheon.attempt JOIN protheon.task ON task.id = attempt.task_id
             WHERE attempt.ended_at IS NULL ORDER BY 1"""
        with suppress(psycopg.OperationalError):
            return [OpenAttempt(*row) for row in self.ask(sql, patience_s=0.0)]
        return []

    def wait_open(self, wanted: Callable[[OpenAttempt], bool], timeout_s: float) -> list[OpenAttempt]:
        """The open attempts that are wanted, as soon as there is one; empty after timeout_s."""
        end_at = time.monotonic() + timeout_s
        while time.monotonic() < end_at:
            if found := [attempt for attempt in self.open_attempts() if wanted(attempt)]:
                return found
            time.sleep(0.02)
        return []

    def still_open(self, attempts: Sequence[tuple[int, int]], at: float) -> list[tuple[int, int]]:
        """Those of these attempts that had not ended at that moment (Unix time)."""
        sql = """SELECT task_id, attempt_no FROM protheon.attempt
                  WHERE (task_id, attempt_no) IN (SELECT * FROM unnest(%s::bigint[], %s::integer[]))
                    AND (ended_at IS NULL OR extract(epoch FROM ended_at) >= %s)"""
        return [(row[0], row[1]) for row in self.ask(sql, ([a[0] for a in attempts], [a[1] for a in attempts], at))]

    def endings(self, attempts: Sequence[tuple[int, int]]) -> list[tuple[float | None, float | None, float | None]]:
        """Of each of these attempts (Unix times): when it ended without success, when the next one started, when its task succeeded."""
        sql = """
            SELECT extract(epoch FROM ended.ended_at)::float8, extract(epoch FROM next.started_at)::float8,
                   (SELECT extract(epoch FROM done.ended_at)::float8 FROM protheon.attempt AS done
                     WHERE done.task_id = asked.task_id AND done.outcome = 'succeeded')
              FROM unnest(%s::bigint[], %s::integer[]) AS asked (task_id, attempt_no)
              LEFT JOIN protheon.attempt AS ended
                ON (ended.task_id, ended.attempt_no) = (asked.task_id, asked.attempt_no) AND ended.outcome <> 'succeeded'
              LEFT JOIN protheon.attempt AS next ON (next.task_id, next.attempt_no) = (asked.task_id, asked.attempt_no + 1)"""
        return [(row[0], row[1], row[2]) for row in self.ask(sql, ([a[0] for a in attempts], [a[1] for a in attempts]))]

    def first_commit(self, *, started_after: float) -> float | None:
        """When the first attempt that began after this moment succeeded."""
        sql = """SELECT min(extract(epoch FROM ended_at))::float8 FROM protheon.attempt
                  WHERE outcome = 'succeeded' AND started_at >= to_timestamp(%s)"""
        return self._one(sql, (started_after,))

    def first_commit_after(self, at: float) -> float | None:
        """When the first attempt succeeded after this moment, whenever it began."""
        sql = """SELECT min(extract(epoch FROM ended_at))::float8 FROM protheon.attempt
                  WHERE outcome = 'succeeded' AND ended_at >= to_timestamp(%s)"""
        return self._one(sql, (at,))

    def claims_by_worker(self, after: float) -> dict[str, float]:
        """When each worker first claimed an attempt after this moment."""
        sql = """SELECT worker, min(extract(epoch FROM started_at))::float8 FROM protheon.attempt
                  WHERE started_at >= to_timestamp(%s) GROUP BY worker"""
        return dict(self.ask(sql, (after,)))

    def n_started(self, after: float, before: float) -> int:
        """Attempts that began in this time."""
        sql = "SELECT count(*) FROM protheon.attempt WHERE started_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)"
        return int(self.ask(sql, (after, before))[0][0])

    def states(self) -> dict[str, int]:
        """Tasks by state."""
        return dict(self.ask("SELECT state, count(*) FROM protheon.task GROUP BY state"))

    def _one(self, sql: str, params: Sequence[Any]) -> float | None:
        value: float | None = self.ask(sql, params)[0][0]
        return value

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
