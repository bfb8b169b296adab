"""Preload of ``dask worker``: makes the process's worker, and bounds the time that its end can take."""

from __future__ import annotations

import os
import threading

from distributed import Worker

from protheon_dask import failpoints
from protheon_dask.run.doing import METRIC
from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.settings import environment, read_settings
from protheon_dask.run.tasks import STARTUP_KEY
from protheon_dask.run.worker import STALL_EXIT, current_process, start_process

SAY_S = 3.0
"""How long a process that ends in the midst of its work may take to say so in the ledger, which may be away."""


def dask_setup(worker: Worker) -> None:
    """Called by Dask in the worker process before it takes tasks."""
    log_to_stderr("protheon_dask")  # Dask has set up its own
    failpoints.arm_from_environment()
    process = start_process(read_settings({}).settings, environment(), str(worker.name))
    told = {"host": process.worker.host, "process_uuid": str(process.worker.process_uuid)}
    worker.startup_information[STARTUP_KEY] = lambda _worker: told
    worker.metrics[METRIC] = lambda _worker: process.doing.told()


def dask_teardown(_worker: Worker) -> None:
    """Called by every close: a stuck thread or task must not keep the process, nor write for long (PITFALLS 1)."""
    process = current_process()
    process.hurry()
    grace_s = read_settings({}).settings.exit_grace_s
    for timer in (threading.Timer(grace_s, process.end_unfinished), threading.Timer(grace_s + SAY_S, os._exit, (STALL_EXIT,))):
        timer.daemon = True
        timer.start()
