"""The catalogue of metrics: what /metrics tells of a picture, as JSON and as families of OpenMetrics. Pure.

One entry is one field of the JSON object and, where it is a number, one sample of OpenMetrics or one for each value of a label.
Labels are of closed sets: no run, task, path, worker or host is ever one, so that the number of series is the same for ever.
docs/telemetry.md is this catalogue in words for operators; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from protheon_dask.model import STAGES, Outcome, RunState
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, ClusterPicture, WorkerPicture
from protheon_dask.words import moment

GAUGE, COUNTER, INFO = "gauge", "counter", "info"
CAUSES: Final = tuple(str(outcome) for outcome in Outcome if outcome is not Outcome.SUCCEEDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One field of the JSON object, and its place in OpenMetrics."""

    key: str  # of the JSON object
    meaning: str
    read: Callable[[ClusterPicture], Any]  # a number, or numbers by the values of the label; anything JSON where family is empty
    family: str = ""  # OpenMetrics' name, without the _total of a counter; empty: only in the JSON object
    kind: str = ""
    unit: str = ""  # seconds, bytes, ratio, or none
    label: str = ""
    value: str = ""  # of the label; empty: read gives the numbers of all its values
    values: tuple[str, ...] = ()  # of the label, all there are


FAMILIES: Final[Mapping[str, str]] = {
    "protheon_tasks": "Chunks and tasks in the ledger, by state.",
    "protheon_workers": "Worker processes by status. Lost: the scheduler knew it a minute ago.",
    "protheon_runs": "Runs that have not ended, by state; the newest fifty of them.",
}
"""What families say that have several entries; any other says its entry's meaning."""


def _state(key: str, state: str, meaning: str, read: Callable[[ClusterPicture], int]) -> Metric:
    return Metric(key=key, meaning=meaning, read=read, family="protheon_tasks", kind=GAUGE, label="state", value=state)


def _status(key: str, status: str, meaning: str) -> Metric:
    def read(picture: ClusterPicture) -> int:
        return sum(worker.status == status for worker in picture.workers)

    return Metric(key=key, meaning=meaning, read=read, family="protheon_workers", kind=GAUGE, label="status", value=status)


def _runs(state: RunState, meaning: str) -> Metric:
    def read(picture: ClusterPicture) -> int:
        return sum(run.state is state for run in picture.runs)

    return Metric(key=f"{state}_runs", meaning=meaning, read=read, family="protheon_runs", kind=GAUGE, label="state", value=str(state))


def _total(key: str, meaning: str, read: Callable[[ClusterPicture], int], unit: str = "") -> Metric:
    return Metric(key=key, meaning=meaning, read=read, family=f"protheon_{key.removesuffix('_total')}", kind=COUNTER, unit=unit)


def _gauge(key: str, meaning: str, read: Callable[[ClusterPicture], float | None], unit: str = "") -> Metric:
    return Metric(key=key, meaning=meaning, read=read, family=f"protheon_{key}", kind=GAUGE, unit=unit)


def _moment(at: float | None) -> str | None:
    return None if at is None else moment(datetime.fromtimestamp(at, UTC))


def _shares(picture: ClusterPicture) -> dict[str, float]:
    seconds = sum(picture.stage_seconds.values())
    return {stage: round(picture.stage_seconds.get(stage, 0.0) / seconds, 4) if seconds > 0 else 0.0 for stage in STAGES}


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        key="version",
        meaning="Version of the broker.",
        read=lambda p: p.version,
        family="protheon_build",
        kind=INFO,
        label="version",
    ),
    Metric(key="taken_at", meaning="When the picture was taken, RFC 3339.", read=lambda p: _moment(p.at)),
    _gauge("picture_timestamp_seconds", "When the picture was taken, seconds of the epoch.", lambda p: round(p.at, 3), "seconds"),
    Metric(key="counted_at", meaning="When the ledger told its part; old while PostgreSQL is away.", read=lambda p: _moment(p.counted_at)),
    _gauge("counted_timestamp_seconds", "When the ledger told its part, seconds of the epoch.", lambda p: p.counted_at or 0.0, "seconds"),
    _gauge("uptime_seconds", "How long the broker runs.", lambda p: round(p.uptime_s, 3), "seconds"),
    _gauge("ready", "1 where work can flow, 0 where /healthz answers 503.", lambda p: int(not p.missing)),
    Metric(key="missing", meaning="What keeps work from flowing, and since when, in words.", read=lambda p: list(p.missing)),
    # chunks and tasks
    _state("pending_tasks", "ready", "Wait for a worker, or for the end of a pause after a failure.", lambda p: p.totals.tasks_ready),
    _state("in_progress_tasks", "running", "A worker has them.", lambda p: p.totals.tasks_running),
    _state("completed_tasks", "succeeded", "Committed.", lambda p: p.totals.tasks_succeeded),
    _state("dead_tasks", "dead", "Given up; each has a dead letter.", lambda p: p.totals.tasks_dead),
    _state("cancelled_tasks", "cancelled", "Of runs, or tasks, that a person cancelled.", lambda p: p.totals.tasks_cancelled),
    _gauge("oldest_ready_seconds", "Wait of the oldest chunk or task that is ready, or 0.", lambda p: p.oldest_ready_s or 0.0, "seconds"),
    Metric(key="total_retries", meaning="Attempts without effect that another one followed.", read=lambda p: p.totals.retries),
    Metric(
        key="retries_by_cause",
        meaning="Attempts without effect that another one followed, by how they ended.",
        read=lambda p: {cause: p.totals.retries_by_cause.get(cause, 0) for cause in CAUSES},
        family="protheon_retries",
        kind=COUNTER,
        label="cause",
        values=CAUSES,
    ),
    _total("dead_letters_total", "Dead letters that were written, with those that were replayed since.", lambda p: p.totals.dead_letters),
    # workers
    Metric(
        key="connected_workers",
        meaning="Worker processes that are idle or busy.",
        read=lambda p: sum(worker.status != LOST for worker in p.workers),
    ),
    _status("idle_workers", IDLE, "Have no attempt."),
    _status("busy_workers", BUSY, "Have an attempt."),
    _status("lost_workers", LOST, "Were there a minute ago."),
    _gauge("hosts_set_aside", "Hosts that get no work for now: what failed there succeeded elsewhere.", lambda p: len(p.hosts_aside)),
    # runs
    _runs(RunState.QUEUED, "Wait until their sources are identified."),
    _runs(RunState.RUNNING, "At work."),
    _runs(RunState.PAUSED, "Wait for a person."),
    # what was committed
    _total("files_total", "Files that were submitted.", lambda p: p.totals.files),
    Metric(
        key="files_completed",
        meaning="Files of which every line is accounted for.",
        read=lambda p: p.totals.files_completed,
        family="protheon_files_completed",
        kind=COUNTER,
    ),
    _total("lines_total", "Lines that were committed: loaded, filtered, rejected or blank.", lambda p: p.totals.lines),
    _total("rows_total", "Rows that pipelines offered to their tables.", lambda p: p.totals.rows),
    _total("rejects_total", "Lines that were refused.", lambda p: p.totals.rejects),
    _total("raw_bytes_total", "Raw text of committed lines.", lambda p: p.totals.raw_bytes, "bytes"),
    _total("wire_bytes_total", "Compressed bytes that workers fetched.", lambda p: p.totals.wire_bytes, "bytes"),
    # the last seconds
    _gauge("lines_per_second", "Lines committed a second, over the last seconds.", lambda p: round(p.flow.lines_per_s, 3)),
    _gauge("rows_per_second", "Rows offered a second, over the last seconds.", lambda p: round(p.flow.rows_per_s, 3)),
    _gauge("raw_bytes_per_second", "Raw text committed a second, over the last seconds.", lambda p: round(p.flow.raw_bytes_per_s, 3)),
    _gauge("wire_bytes_per_second", "Compressed bytes a second, over the last seconds.", lambda p: round(p.flow.wire_bytes_per_s, 3)),
    Metric(
        key="stage_ratio",
        meaning="Which part of the workers' time of the last seconds went into each stage; together 1, or 0 while nothing runs.",
        read=_shares,
        family="protheon_stage_ratio",
        kind=GAUGE,
        unit="ratio",
        label="stage",
        values=tuple(STAGES),
    ),
    Metric(key="bound", meaning="What bounds the work now, in words; null: nothing can be said.", read=lambda p: p.bound),
    # the broker's workspace
    _gauge("workspace_bytes", "Chunk files that wait for a worker, or are read by one.", lambda p: p.workspace_bytes, "bytes"),
    _gauge("workspace_quota_bytes", "What the chunk files may take.", lambda p: p.workspace_quota_bytes, "bytes"),
    _gauge("look_ahead_chunks", "Chunks that were cut and not yet taken.", lambda p: p.look_ahead_chunks),
)


def metrics_json(picture: ClusterPicture) -> dict[str, Any]:
    """The object of /metrics."""
    return {metric.key: metric.read(picture) for metric in METRICS}


def workers_json(picture: ClusterPicture) -> dict[str, dict[str, Any]]:
    """The object of /workers, keyed by name. A worker that was lost and came back under its name is the one that is there."""
    order = sorted(picture.workers, key=lambda worker: (worker.status != LOST, worker.name))
    return {worker.name: _worker_json(worker) for worker in order}


def _worker_json(worker: WorkerPicture) -> dict[str, Any]:
    now = {"task_id": worker.task_id, "run": worker.run, "stage": worker.stage, "stage_s": round(worker.stage_s, 3)}
    return {
        "status": worker.status,
        "host": worker.host,
        "current": now if worker.status == BUSY else None,
        "tasks_completed": worker.tasks_completed,
        "utilization": round(worker.utilization, 4),
        "lines_per_s": round(worker.lines_per_s, 1),
        "last_heartbeat_s": round(worker.last_heartbeat_s, 3),
    }


def health_json(picture: ClusterPicture) -> dict[str, Any]:
    """The object of /healthz; work flows where nothing is missing."""
    return {"healthy": not picture.missing, "missing": list(picture.missing), "taken_at": _moment(picture.at)}
