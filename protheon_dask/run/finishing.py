"""What comes after a run's last row: indexes, foreign keys and statistics of its tables, beside the coordinator's rounds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from protheon_dask.errors import LedgerUnavailable
from protheon_dask.ledger import runs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.pipelines.table import Table
from protheon_dask.sink.finish import analyze_tables, finish_tables

logger = logging.getLogger(__name__)


class TableFinisher:
    """Finishes the tables of one run at a time, in a thread with a connection of its own: an index may take hours.

    Guarantee: what it makes is idempotent, so a broker that dies meanwhile costs time only.
    """

    def __init__(self, url: str, on_done: Callable[[], None]) -> None:
        self._url, self._on_done = url, on_done
        self._pool = ThreadPoolExecutor(1, "finish-tables")
        self._jobs: dict[int, Future[list[str]]] = {}

    def problems_nowait(self, run_id: int) -> list[str] | None:
        """Start to make the run's indexes and keys, or say how it went: what could not be made, and why; None while at work."""
        if run_id not in self._jobs:
            self._jobs[run_id] = self._pool.submit(self._finish, run_id)
            self._jobs[run_id].add_done_callback(lambda _: self._on_done())
        job = self._jobs[run_id]
        if not job.done():
            return None
        del self._jobs[run_id]
        try:
            return job.result()
        except LedgerUnavailable:
            return None  # asked again, it begins anew

    def analyze(self, run_id: int) -> None:
        """Have the planner's statistics made of the tables of a run that has ended: nobody waits for that."""
        self._pool.submit(self._analyze, run_id)

    def stop(self) -> None:
        """Begin nothing new; what is in flight ends within the process's grace, or with the process."""
        self._pool.shutdown(wait=False)

    def _finish(self, run_id: int) -> list[str]:
        with opened(self._url, application="protheon-finish") as conn:
            return finish_tables(conn, _tables(conn, run_id))

    def _analyze(self, run_id: int) -> None:
        try:
            with opened(self._url, application="protheon-finish") as conn:
                problems = analyze_tables(conn, _tables(conn, run_id))
        except LedgerUnavailable as exc:
            problems = [str(exc)]
        if problems:
            logger.warning("run.analyze_failed", extra={"run_id": run_id, "problems": problems})


def _tables(conn: Connection, run_id: int) -> list[Table]:
    return [Table.from_json(value) for value in json.loads(runs.pipeline_of(conn, run_id)["tables_json"])]
