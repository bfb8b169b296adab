"""What comes after a run's last row: indexes, foreign keys and statistics of its tables, beside the coordinator's rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from protheon_dask.errors import LedgerUnavailable
from protheon_dask.ledger import runs
from protheon_dask.ledger.connect import opened
from protheon_dask.pipelines.table import Table
from protheon_dask.sink.finish import finish_tables


class TableFinisher:
    """Finishes the tables of one run at a time, in a thread with a connection of its own: an index may take hours.

    Guarantee: what it makes is idempotent, so a broker that dies meanwhile costs time only.
    """

    def __init__(self, url: str, on_done: Callable[[], None]) -> None:
        self._url, self._on_done = url, on_done
        self._pool = ThreadPoolExecutor(1, "finish-tables")
        self._jobs: dict[int, Future[list[str]]] = {}

    def problems_nowait(self, run_id: int, *, has_loaded: bool) -> list[str] | None:
        """Start it, or say how it went: what could not be made, and why; None while it is at work.

        has_loaded: False for a run that loaded nothing itself: its tables are left alone, but for indexes and keys that a
        run before it may not have come to.
        """
        if run_id not in self._jobs:
            self._jobs[run_id] = self._pool.submit(self._finish, run_id, has_loaded)
            self._jobs[run_id].add_done_callback(lambda _: self._on_done())
        job = self._jobs[run_id]
        if not job.done():
            return None
        del self._jobs[run_id]
        try:
            return job.result()
        except LedgerUnavailable:
            return None  # asked again, it begins anew

    def stop(self) -> None:
        """Wait for nothing: a statement that is in flight ends with its process."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self, run_id: int, has_loaded: bool) -> list[str]:
        with opened(self._url, application="protheon-finish") as conn:
            tables = [Table.from_json(value) for value in json.loads(runs.pipeline_of(conn, run_id)["tables_json"])]
            return finish_tables(conn, [table for table in tables if has_loaded or table.indexes or table.foreign_keys])
