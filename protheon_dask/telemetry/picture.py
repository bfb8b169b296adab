"""One frozen picture of a cluster, taken once a second by the broker: pages, /metrics and /workers draw it. None of them owns a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protheon_dask.telemetry.statistics import RunStatistics

IDLE, BUSY, LOST = "idle", "busy", "lost"
STALE_S: Final = 10.0
"""A picture is taken each second. Without one for so long nobody knows what flows; without an answer the ledger is missing, or the
dashboard's plugin; without a round of the coordinator's the lead."""


@dataclass(frozen=True, slots=True)
class WorkerPicture:
    """One worker process. Its numbers are its own, of this boot."""

    name: str  # with Dask: the key of /workers
    host: str
    status: str  # idle, busy (it has an attempt), lost (the scheduler knew it a minute ago)
    task_id: int | None = None  # of the attempt that it has
    run: int | None = None
    stage: str | None = None  # of model.STAGES: what it does at this moment
    stage_s: float = 0.0  # for so long
    utilization: float = 0.0  # share of the last seconds in which it had an attempt, within 0 and 1
    tasks_completed: int = 0
    lines_per_s: float = 0.0  # over the last seconds
    last_heartbeat_s: float = 0.0  # ago


@dataclass(frozen=True, slots=True)
class HostAside:
    """A host that gets no work for now."""

    host: str
    reason: str
    until_at: float  # seconds of the epoch


@dataclass(frozen=True, slots=True)
class Flow:
    """What the last seconds brought, over all runs."""

    lines_per_s: float = 0.0
    rows_per_s: float = 0.0
    raw_bytes_per_s: float = 0.0
    wire_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the ledger was made: chunks and tasks by state, committed work, and what was refused. All but the first five only rise."""

    tasks_ready: int = 0
    tasks_running: int = 0
    tasks_succeeded: int = 0
    tasks_dead: int = 0
    tasks_cancelled: int = 0
    retries: int = 0
    retries_by_cause: Mapping[str, int] = field(default_factory=dict)  # by model.Outcome of the attempt that ended without effect
    files: int = 0
    files_completed: int = 0
    lines: int = 0
    rows: int = 0  # offered
    raw_bytes: int = 0
    wire_bytes: int = 0
    rejects: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class ClusterPicture:
    """A cluster at one moment. Units: *_at seconds of the epoch, *_s seconds, *_bytes bytes."""

    at: float
    version: str
    uptime_s: float  # of the broker
    missing: tuple[str, ...]  # what keeps work from flowing, in words, with since when; empty: all is well
    totals: Totals
    flow: Flow
    runs: tuple[RunStatistics, ...]  # those that are at work or paused, and the newest that ended; newest first
    workers: tuple[WorkerPicture, ...]
    stage_seconds: Mapping[str, float]  # by model.STAGES: where the time of the last seconds went, over all workers
    oldest_ready_s: float | None  # how long the oldest chunk or task waits that may be taken; None: none may
    workspace_bytes: int  # of files of ready and running chunks
    workspace_quota_bytes: int
    look_ahead_chunks: int  # cut and not yet taken
    hosts_aside: tuple[HostAside, ...] = ()
    bound: str | None = None  # what bounds the work now, in words: telemetry.bound
    counted_at: float | None = None  # when the ledger told totals and runs; None: it has not yet, and they are nothing rather than 0
