"""What a worker process does now, and what it has done since its boot: told to the scheduler with each heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from protheon_dask.model import STAGES, StageClock

METRIC: Final = "protheon"
"""The name among the metrics of a Dask worker."""


@dataclass(frozen=True, slots=True)
class _Done:
    """Of the attempts that ended in this process, also those without effect; tasks counts the others."""

    tasks: int = 0
    lines: int = 0
    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    busy_s: float = 0.0
    stage_seconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def plus(self, clock: StageClock, busy_s: float) -> _Done:
        return replace(
            self,
            lines=self.lines + clock.lines,
            rows=self.rows + clock.rows,
            raw_bytes=self.raw_bytes + clock.raw_bytes,
            wire_bytes=self.wire_bytes + clock.wire_bytes,
            busy_s=self.busy_s + busy_s,
            stage_seconds={stage: seconds + clock.seconds[stage] for stage, seconds in self.stage_seconds.items()},
        )


@dataclass(frozen=True, slots=True)
class _Now:
    task_id: int
    run: int | None
    clock: StageClock
    started_s: float


class Doing:
    """Written by the process's one task thread, read by any. now_s: the clock that fills the attempts' StageClocks. n_cores: of its host.

    Guarantee: nothing locks, so that no reader holds up the work; each number is one that was true a moment ago.
    """

    def __init__(self, now_s: Callable[[], float], n_cores: int) -> None:
        self._now_s, self._n_cores = now_s, n_cores
        self._state: tuple[_Done, _Now | None] = (_Done(), None)  # one value, so that an attempt is counted once

    @contextmanager
    def at_work(self, task_id: int, run: int | None, clock: StageClock, started_s: float) -> Iterator[None]:
        """The process has this attempt in the block."""
        self._state = (self._state[0], _Now(task_id, run, clock, started_s))
        try:
            yield
        finally:
            self._state = (self._state[0].plus(clock, self._now_s() - started_s), None)

    def done(self) -> None:
        """The attempt has succeeded."""
        done, now = self._state
        self._state = (replace(done, tasks=done.tasks + 1), now)

    def told(self) -> dict[str, Any]:
        """A small value of JSON's types: telemetry.workers.Report reads it. All but the first four only rise."""
        now_s = self._now_s()
        done, now = self._state
        at = None if now is None else now.clock.at
        if now is not None:
            done = done.plus(now.clock, max(0.0, now_s - now.started_s))
        seconds = dict(done.stage_seconds)
        if at is not None:
            seconds[at[0]] += max(0.0, now_s - at[1])
        return {
            "task": None if now is None else now.task_id,
            "run": None if now is None else now.run,
            "stage": None if at is None else at[0],
            "stage_s": 0.0 if at is None else round(max(0.0, now_s - at[1]), 3),
            "at_s": round(now_s, 3),
            "busy_s": round(done.busy_s, 3),
            "tasks": done.tasks,
            "lines": done.lines,
            "rows": done.rows,
            "raw": done.raw_bytes,
            "wire": done.wire_bytes,
            "cores": self._n_cores,
            "stages": [round(seconds[stage], 3) for stage in STAGES],
        }
