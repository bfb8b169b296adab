"""Preload of ``dask worker``: makes the process's worker, and bounds the time that its end can take."""

from __future__ import annotations

import os
import threading

from distributed import Worker

from protheon_dask import failpoints
from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.settings import environment, read_settings
from protheon_dask.run.worker import STALL_EXIT, start_process


def dask_setup(worker: Worker) -> None:
    """Called by Dask in the worker process before it takes tasks."""
    log_to_stderr("protheon_dask")  # Dask has set up its own
    failpoints.arm_from_environment()
    start_process(read_settings({}).settings, environment(), str(worker.name))


def dask_teardown(_worker: Worker) -> None:
    """Called by every close: a stuck thread or task must not keep the process, nor write for long (PITFALLS 1)."""
    grace_s = read_settings({}).settings.exit_grace_s
    timer = threading.Timer(grace_s, os._exit, (STALL_EXIT,))
    timer.daemon = True
    timer.start()
