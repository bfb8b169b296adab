"""What comes after a run's last row: indexes, foreign keys and statistics of its tables, beside the coordinator's rounds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

from protheon_dask.errors import LedgerUnavailable, ProtheonError
from protheon_dask.ledger import runs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.model import RunState
from protheon_dask.pipelines.table import Table
from protheon_dask.sink.finish import Making, analyze_tables, cancel, finish_tables, progress_of

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the progress of an index is looked at and written as the run's reason, where every face reads it."""
N_AT_ONCE = 4
"""Runs whose tables are looked at side by side: one that has nothing to make does not wait for another's hours. Making takes turns."""
RETRY_S = 60.0
"""Longest pause before what PostgreSQL could not do now is begun anew; the first is 1 s, each the double of the one before."""


@dataclass(slots=True)
class _Waiting:
    """A run whose tables could not be finished for a passing reason."""

    n_tries: int = 0
    again_at: float = 0.0  # monotonic


class TableFinisher:
    """Finishes the tables of runs, each in a thread with a connection of its own: an index may take hours.

    Guarantee: what it makes is idempotent, so a broker that dies meanwhile costs time only. What may pass (a full disk, somebody who
    cancels the statement) is the run's reason, and tried again after a growing pause: all of an index is built anew each time.
    """

    def __init__(self, url: str, on_done: Callable[[], None]) -> None:
        self._url, self._on_done = url, on_done
        self._pool = ThreadPoolExecutor(N_AT_ONCE, "finish-tables")
        self._jobs: dict[int, Future[list[str]]] = {}
        self._waiting: dict[int, _Waiting] = {}

    def problems_nowait(self, run_id: int) -> list[str] | None:
        """Start to make the run's indexes and keys, or say how it went: what could not be made, and why; None while at work."""
        job, waiting = self._jobs.get(run_id), self._waiting.setdefault(run_id, _Waiting())
        if job is None:
            if time.monotonic() >= waiting.again_at:
                self._jobs[run_id] = self._pool.submit(self._finish, run_id)
                self._jobs[run_id].add_done_callback(lambda _: self._on_done())
            return None
        if not job.done():
            return None
        del self._jobs[run_id]
        try:
            problems = job.result()
        except LedgerUnavailable as exc:
            waiting.again_at = time.monotonic() + min(RETRY_S, 2.0 ** min(waiting.n_tries, 10))
            waiting.n_tries += 1
            logger.warning("run.finish_waits", extra={"run_id": run_id, "error": str(exc)})
            return None
        except ProtheonError as exc:
            problems = [f"indexes and foreign keys could not be made: {exc}"]
        del self._waiting[run_id]
        return problems

    def analyze(self, run_id: int) -> None:
        """Have the planner's statistics made of the tables of a run that has ended: nobody waits for that."""
        self._pool.submit(self._analyze, run_id)

    def stop(self) -> None:
        """Begin nothing new; what is in flight ends within the process's grace, or with the process."""
        self._pool.shutdown(wait=False)

    def _finish(self, run_id: int) -> list[str]:
        try:
            with opened(self._url, application="protheon-finish") as conn, self._told(run_id) as tell:
                return finish_tables(conn, _tables(conn, run_id), tell)
        except LedgerUnavailable as exc:
            with suppress(ProtheonError), opened(self._url, application="protheon-finish") as conn:
                runs.note_progress(conn, run_id, f"indexes and foreign keys cannot be made now: {exc}; begun anew within {RETRY_S:g} s")
            raise

    @contextmanager
    def _told(self, run_id: int) -> Iterator[Callable[[Making], None]]:
        """For the time of the block, what is being made is the run's reason; where the run ends meanwhile, the making ends too."""
        now: list[Making] = []
        begun, ended = Event(), Event()

        def tell(making: Making) -> None:
            now[:] = [making]
            begun.set()

        def look() -> None:
            begun.wait()
            while not ended.is_set():
                try:
                    with opened(self._url, application="protheon-finish") as conn:
                        while not ended.is_set():
                            making = now[0]
                            if runs.note_progress(conn, run_id, progress_of(conn, making)) is RunState.CANCELLED:
                                cancel(conn, making)
                            ended.wait(LOOK_S)
                except ProtheonError as exc:
                    logger.warning("run.progress_unsaid", extra={"run_id": run_id, "error": str(exc)})
                    ended.wait(LOOK_S)

        watcher = Thread(target=look, name=f"watch-finish-{run_id}", daemon=True)
        watcher.start()
        try:
            yield tell
        finally:
            ended.set()
            begun.set()
            watcher.join()

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
