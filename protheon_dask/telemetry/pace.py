"""How fast a run is, and when it will be done. Pure: the caller brings the clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from protheon_dask.telemetry.statistics import RunStatistics

WINDOW_S: Final = 10.0  # a rate looks back this far at least
WINDOW_STEPS: Final = 4  # and over so many commits, so that large chunks do not make it jump between nothing and all


@dataclass(frozen=True, slots=True)
class Rates:
    """What the last seconds brought. eta_s is None while nothing can be said."""

    lines_per_s: float = 0.0
    raw_mb_per_s: float = 0.0
    rows_per_s: float = 0.0
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    at_s: float
    lines: int
    raw_bytes: int
    rows: int


class Pace:
    """Rates over a sliding window of what was committed. Not thread-safe.

    What other runs had loaded before counts for nothing: when the run's set of files changes, the window begins anew.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._files: tuple[int, int, int] | None = None
        self._latest: RunStatistics | None = None

    def add(self, statistics: RunStatistics, now_s: float) -> None:
        """Take a picture of the run; now_s is any clock that only rises."""
        files = (statistics.files, statistics.skipped_files, statistics.attached_files)
        if files != self._files:
            self._steps.clear()
            self._files = files
        self._latest = statistics
        if self._steps and self._steps[-1].lines == statistics.lines:
            return
        self._steps.append(_Step(now_s, statistics.lines, statistics.raw_bytes, sum(count.offered for count in statistics.rows)))
        while len(self._steps) > WINDOW_STEPS + 1 and now_s - self._steps[1].at_s >= WINDOW_S:
            self._steps.popleft()

    def rates(self, now_s: float) -> Rates:
        """Rates up to now_s: they sink while nothing is committed."""
        if self._latest is None or len(self._steps) < 2:
            return Rates()
        first, last = self._steps[0], self._steps[-1]
        spacing_s = (last.at_s - first.at_s) / (len(self._steps) - 1)
        # Between two commits nothing is wrong: time counts from the moment at which the next one is overdue.
        seconds = max(last.at_s - first.at_s, now_s - first.at_s - spacing_s, 1e-9)
        lines_per_s = (last.lines - first.lines) / seconds
        left = self._latest.estimated_lines - last.lines
        known = lines_per_s > 0 and left >= 0 and not self._latest.state.is_final and not self._latest.is_pausing
        return Rates(
            lines_per_s=lines_per_s,
            raw_mb_per_s=(last.raw_bytes - first.raw_bytes) / 1e6 / seconds,
            rows_per_s=(last.rows - first.rows) / seconds,
            eta_s=max(0.0, left / lines_per_s - min(now_s - last.at_s, spacing_s)) if known else None,
        )
