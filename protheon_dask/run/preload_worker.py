"""Preload of ``dask worker``: makes the process's worker, drains it when that is asked for, and bounds the time that its end can take.

By hand: ``dask worker SCHEDULER --nthreads 1 --preload protheon_dask.run.preload_worker`` with PROTHEON_BROKER in the environment
(docs/hosts.md). PROTHEON_HOST, PROTHEON_DRAIN_FILE: `protheon worker`'s own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from distributed import Worker
from distributed.core import Status

from protheon_dask import failpoints
from protheon_dask.run.doing import METRIC
from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.preloading import or_end
from protheon_dask.run.settings import environment, read_settings
from protheon_dask.run.tasks import STARTUP_KEY
from protheon_dask.run.trust.dask_tls import keep_renewed, refuse_removed
from protheon_dask.run.worker import STALL_EXIT, WorkerProcess, current_process, start_process

logger = logging.getLogger(__name__)

SAY_S = 3.0
"""How long a process that ends in the midst of its work may take to say so in the ledger, or to the scheduler: either may be away."""
DRAIN_POLL_S = 0.25
"""Period of the look whether this process is to drain, and whether its work is done."""

_draining: asyncio.Task[None] | None = None  # an event loop forgets tasks that nobody holds


def dask_setup(worker: Worker) -> None:
    """Called by Dask in the worker process before it takes tasks."""
    log_to_stderr("protheon_dask")  # Dask has set up its own
    failpoints.arm_from_environment()
    with or_end("worker"):
        _set_up(worker)


def _set_up(worker: Worker) -> None:
    global _draining
    settings, env = read_settings({}).settings, environment()
    refuse_removed(worker, settings)
    keep_renewed(worker, settings)
    process = start_process(settings, env, str(worker.name))
    told = {"host": process.worker.host, "process_uuid": str(process.worker.process_uuid)}
    worker.startup_information[STARTUP_KEY] = lambda _worker: told
    worker.metrics[METRIC] = lambda _worker: process.doing.told()
    if drain_file := env.get("PROTHEON_DRAIN_FILE"):
        _draining = asyncio.get_running_loop().create_task(drain_when_told(worker, process, Path(drain_file), settings.exit_grace_s))


def dask_teardown(_worker: Worker) -> None:
    """Called by every close: a stuck thread or task must not keep the process, nor write for long (PITFALLS 1)."""
    process = current_process()
    process.hurry()
    grace_s = read_settings({}).settings.exit_grace_s
    for timer in (threading.Timer(grace_s, process.end_unfinished), threading.Timer(grace_s + SAY_S, os._exit, (STALL_EXIT,))):
        timer.daemon = True
        timer.start()


async def drain_when_told(worker: Worker, process: WorkerProcess, told: Path, grace_s: float) -> None:
    """Once the file is there: take no more, let what is in hand end within grace_s, give the rest back at no cost, then close.

    Dask's own ways of closing do not wait for what runs, and a scheduler that loses a worker at work takes that for its death
    (PITFALLS 4): the scheduler hears first that this worker takes nothing, and lets go of it only when it is idle.
    """
    while worker.status != Status.running or not told.exists():
        await asyncio.sleep(DRAIN_POLL_S)
    logger.info("worker.drain", extra={"worker": str(worker.name), "grace_s": grace_s})
    worker.status = Status.closing_gracefully
    end_at = time.monotonic() + grace_s
    while worker.state.executing and time.monotonic() < end_at:
        await asyncio.sleep(DRAIN_POLL_S)
    await asyncio.to_thread(process.give_unfinished)
    await asyncio.sleep(DRAIN_POLL_S)  # the answer of what ended is on its way, by another connection
    with suppress(OSError, TimeoutError):  # the scheduler is away: it has forgotten this worker anyway
        away = worker.scheduler.retire_workers(
            workers=[worker.address], close_workers=False, remove=True, stimulus_id=f"protheon-drain-{time.time()}"
        )
        await asyncio.wait_for(away, SAY_S)
    await worker.close(nanny=True, executor_wait=False, reason="protheon-drain")  # what still runs has been given back
