"""Workers of a simulated cluster, many in this process: ``python -m benchmarks.soak_fleet SCHEDULER N NAME``, the ledger's URL on stdin.

Each is a real Dask worker with a thread that claims, completes and commits as a worker process does, and loads nothing: what is measured is
the broker and the scheduler. Says ``ready`` once all have joined, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any
from uuid import uuid4

import psycopg
from distributed import Worker as DaskWorker
from distributed import get_worker

from protheon_dask.config import Settings
from protheon_dask.ledger import transaction, verbs
from protheon_dask.model import Dispatch, Lines, Loaded, Seen, StageClock, Worker
from protheon_dask.run import worker as worker_module
from protheon_dask.run.doing import METRIC, Doing
from protheon_dask.run.tasks import NOT_CLAIMED, STARTUP_KEY, SUCCEEDED


class NoOpLoad:
    """In place of the one WorkerProcess: one for each Dask worker here, told apart by the thread that asks."""

    def __init__(self, url: str, host: str) -> None:
        self._url, self._settings = url, Settings()
        self._mine = threading.local()
        self.host = host

    @property
    def worker(self) -> Worker:
        """Of the thread that asks."""
        found: Worker = get_worker().protheon  # type: ignore[attr-defined]  # hold() put it there
        return found

    def run(self, dispatch: Dispatch) -> str:
        """Claim the chunk, and complete it with all its lines left out; its bytes are never fetched."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = psycopg.connect(self._url, autocommit=True, prepare_threshold=None)
        conn: psycopg.Connection = self._mine.connection
        settings = self._settings
        claimed = verbs.claim(conn, Seen(dispatch.task_id, dispatch.attempt_no), self.worker, uuid4(), settings.lease_s)
        if claimed is None or claimed.chunk is None:
            return NOT_CLAIMED
        timeouts = transaction.Timeouts(settings.advisory_wait_s, settings.lease_s, settings.stall_s + settings.lease_s)
        transaction.begin(conn, claimed.lease, timeouts)
        n_lines = claimed.chunk.n_lines
        verbs.complete(conn, claimed.lease, Loaded(Lines(n_lines, filtered=n_lines), ()), StageClock())
        transaction.commit(conn)
        return SUCCEEDED


async def hold(scheduler: str, n: int, name: str, url: str) -> None:
    """Hold n workers until standard input ends."""
    load = NoOpLoad(url, name)
    worker_module._current = load  # type: ignore[assignment]  # what run_attempt() finds
    workers = []
    for no in range(n):
        known = Worker(uuid4(), f"{name}-{no}", name)
        worker = DaskWorker(scheduler, nthreads=1, name=known.name, dashboard=False)
        worker.protheon = known  # type: ignore[attr-defined]
        told = {"host": known.host, "process_uuid": str(known.process_uuid)}
        doing = Doing(time.perf_counter, 1)
        worker.startup_information[STARTUP_KEY] = _always(told)
        worker.metrics[METRIC] = _told(doing)
        workers.append(await worker)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(worker.close(timeout=5) for worker in workers))


def _always(told: dict[str, str]) -> Any:
    return lambda _worker: told


def _told(doing: Doing) -> Any:
    return lambda _worker: doing.told()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.stdin.readline().strip()))
