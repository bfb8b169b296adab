"""Protheon as a contestant: a warm local cluster, a load from submit to succeeded, and what it took."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.figures import ProductRound
from benchmarks.memory import PeakMemory
from protheon_dask.errors import InvariantError
from protheon_dask.model import RunState
from protheon_dask.pipelines.find import find
from protheon_dask.run import api

MAX_ATTEMPTS = 100_000
"""More than any measured run has."""


def load(cluster: api.LocalCluster, source: Path, chunk_lines: int | None = None) -> ProductRound:
    """Load the source with everything on, once more even if it was loaded; wall seconds as a client sees them.

    chunk_lines: None: as the number of workers asks for.
    Raises: InvariantError: the run did not succeed at the first attempt of each chunk; such a time is not to be published.
    """
    with PeakMemory(pid for _, pid in cluster.worker_pids()) as memory:
        started_s = time.perf_counter()
        run_id = cluster.client.submit(find("pgcr"), [str(source)], again=True, chunk_lines=chunk_lines).run_id
        for statistics in cluster.client.watch(run_id):
            last = statistics
        seconds = time.perf_counter() - started_s
    if last.state is not RunState.SUCCEEDED or last.retries:
        raise InvariantError(f"run {run_id} ended {last.state} with {last.retries} retries: {last.reason}")
    attempts = api.report(cluster.url, "attempts", run_id, limit=MAX_ATTEMPTS)
    attempt_s = sum((attempt["ended_at"] - attempt["started_at"]).total_seconds() for attempt in attempts)
    return ProductRound(seconds, last.stage_seconds, attempt_s, memory.peak_mb)
