"""From what workers tell with their heartbeats to their part of the picture: rates, utilization, and who was lost. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from protheon_dask.model import STAGES
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, WorkerPicture

WINDOW_S: Final = 10.0
"""Rates and shares of a worker look back this far, over two of its heartbeats at least."""
SILENT_S: Final = 30.0
"""A worker that the scheduler still has, and has not heard of for so long, counts as lost (Dask's worker-ttl)."""
SHOWN_LOST_S: Final = 60.0
"""So long a worker that is gone is shown as lost."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker process told with its last heartbeat (run.doing.Doing.told). Sums are of this boot, and only rise.

    Units: at_s: the worker's own clock, of which only differences mean something. age_s: of the heartbeat, when the scheduler was asked.
    """

    name: str
    host: str
    process: str  # another one for each boot
    age_s: float
    at_s: float = 0.0
    task_id: int | None = None
    run: int | None = None
    stage: str | None = None
    stage_s: float = 0.0
    busy_s: float = 0.0
    tasks: int = 0
    lines: int = 0
    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    n_cores: int = 0  # of its host
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    is_told: bool = False  # it told of itself: it was started with our preload, and has sent a heartbeat since

    @classmethod
    def of(cls, name: str, host: str, process: str, age_s: float, metric: Any) -> Self:
        """metric: as it came with the heartbeat. One that is not understood, of another version, is as none: nothing raises."""
        nothing = cls(name, host, process, max(0.0, age_s))
        if not isinstance(metric, Mapping):
            return nothing
        try:
            return replace(
                nothing,
                at_s=float(metric["at_s"]),
                task_id=metric["task"],
                run=metric["run"],
                stage=metric["stage"],
                stage_s=float(metric["stage_s"]),
                busy_s=float(metric["busy_s"]),
                tasks=int(metric["tasks"]),
                lines=int(metric["lines"]),
                rows=int(metric["rows"]),
                raw_bytes=int(metric["raw"]),
                wire_bytes=int(metric["wire"]),
                n_cores=int(metric["cores"]),
                stage_seconds=dict(zip(STAGES, map(float, metric["stages"]), strict=True)),
                is_told=True,
            )
        except (ArithmeticError, KeyError, TypeError, ValueError):  # ArithmeticError: of a number without end
            return nothing


@dataclass(slots=True)
class _Known:
    """One worker, by its name: its last reports, and when it was heard of."""

    reports: deque[Report]
    heard_s: float  # of the last heartbeat, by the caller's clock
    gone_s: float | None = None  # since when the scheduler does not know it

    @property
    def last(self) -> Report:
        return self.reports[-1]


class Workers:
    """The workers of a cluster, by name. Not thread-safe; the caller brings the clock, which only rises.

    Guarantee: bounded by the number of workers of the last minute; O(workers) a call.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def take(self, reports: Iterable[Report], now_s: float) -> None:
        """What the scheduler told now: all workers that it knows."""
        present = set()
        for report in reports:
            present.add(report.name)
            known = self._known.get(report.name)
            if known is None or known.last.process != report.process or not known.last.is_told:
                known = self._known[report.name] = _Known(deque([report]), now_s - report.age_s)
            known.gone_s, known.heard_s = None, now_s - report.age_s
            if report.at_s > known.last.at_s:
                known.reports.append(report)
                while len(known.reports) > 2 and report.at_s - known.reports[1].at_s >= WINDOW_S:
                    known.reports.popleft()
        for name, known in list(self._known.items()):
            if name not in present and known.gone_s is None:
                known.gone_s = now_s
        self._known = {name: known for name, known in self._known.items() if known.gone_s is None or now_s - known.gone_s < SHOWN_LOST_S}

    def pictures(self, now_s: float) -> tuple[WorkerPicture, ...]:
        """All of them, by name; those that are gone for a minute already are left out."""
        shown = (item for item in self._known.items() if item[1].gone_s is None or now_s - item[1].gone_s < SHOWN_LOST_S)
        return tuple(_picture(name, known, now_s) for name, known in sorted(shown, key=lambda item: _in_order(item[0])))

    def stage_seconds(self, now_s: float) -> dict[str, float]:
        """Where the time of the last WINDOW_S went, over all workers that are here."""
        total = dict.fromkeys(STAGES, 0.0)
        for known in self._known.values():
            if known.gone_s is None and known.last.is_told and now_s - known.heard_s < SILENT_S:
                first, last = known.reports[0].stage_seconds, known.last.stage_seconds
                for stage in STAGES:
                    # an attempt whose stages were summed up otherwise at its end may take back a little
                    total[stage] += max(0.0, last[stage] - first.get(stage, 0.0))
        return total

    def n_cores(self) -> int | None:
        """Cores of the hosts that have workers; None: nobody has told."""
        cores = {known.last.host: known.last.n_cores for known in self._known.values() if known.gone_s is None and known.last.is_told}
        return sum(cores.values()) or None


def _picture(name: str, known: _Known, now_s: float) -> WorkerPicture:
    last, first = known.last, known.reports[0]
    is_lost = known.gone_s is not None or now_s - known.heard_s >= SILENT_S
    seconds = last.at_s - first.at_s
    picture = WorkerPicture(
        name=name,
        host=last.host,
        status=LOST if is_lost else BUSY if last.task_id is not None else IDLE,
        tasks_completed=last.tasks,
        last_heartbeat_s=max(0.0, now_s - known.heard_s),
    )
    if is_lost:
        return picture
    return replace(
        picture,
        task_id=last.task_id,
        run=last.run,
        stage=last.stage,
        stage_s=last.stage_s + picture.last_heartbeat_s if last.stage is not None else 0.0,
        utilization=min(1.0, max(0.0, (last.busy_s - first.busy_s) / seconds)) if seconds > 0 else float(last.task_id is not None),
        lines_per_s=max(0, last.lines - first.lines) / seconds if seconds > 0 else 0.0,
    )


def _in_order(name: str) -> tuple[tuple[int, str], ...]:
    """``local-2`` before ``local-10``."""
    return tuple((len(part), part) if part.isdigit() else (0, part) for part in name.split("-"))
