"""How much all runs together have brought in the last seconds: rates over a sliding window of the ledger's totals. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from protheon_dask.telemetry.picture import Flow, Totals

WINDOW_S: Final = 10.0
"""A rate looks back this far at least."""
WINDOW_STEPS: Final = 4
"""And over so many commits while work goes on, so that large chunks do not make it jump between nothing and all."""


@dataclass(frozen=True, slots=True)
class _Step:
    at_s: float
    sums: tuple[int, int, int, int]  # lines, rows, raw and wire bytes


class FlowWindow:
    """Not thread-safe. The caller brings a clock that only rises. The window begins anew where totals fall: another ledger."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._idle_s: float | None = None  # since when no task runs

    def add(self, totals: Totals, now_s: float) -> None:
        """Take the totals as they were at now_s."""
        sums = (totals.lines, totals.rows, totals.raw_bytes, totals.wire_bytes)
        was_idle = self._idle_s is not None
        if totals.tasks_running > 0:
            self._idle_s = None
        elif self._idle_s is None:
            self._idle_s = now_s
        if self._steps and any(new < old for new, old in zip(sums, self._steps[-1].sums, strict=True)):
            self._steps.clear()
        if self._idle_s is not None and now_s - self._idle_s > WINDOW_S:
            self._steps.clear()  # the next run's rate does not begin with the pause before it
        if self._steps and self._steps[-1].sums[:3] == sums[:3]:
            if len(self._steps) == 1 and was_idle:  # nothing was at work until now: the window begins
                self._steps[0] = _Step(now_s, sums)
            return
        self._steps.append(_Step(now_s, sums))
        while len(self._steps) > WINDOW_STEPS + 1 and now_s - self._steps[1].at_s >= WINDOW_S:
            self._steps.popleft()

    def flow(self, now_s: float) -> Flow:
        """Rates up to now_s. They sink while a commit is overdue, and are nothing after WINDOW_S without a task at work."""
        if len(self._steps) < 2 or (self._idle_s is not None and now_s - self._idle_s > WINDOW_S):
            return Flow()
        first, last = self._steps[0], self._steps[-1]
        spacing_s = (last.at_s - first.at_s) / (len(self._steps) - 1)
        # Between two commits nothing is wrong: time counts from the moment at which the next one is overdue.
        seconds = max(last.at_s - first.at_s, now_s - first.at_s - spacing_s, 1e-9)
        lines, rows, raw_bytes, wire_bytes = (new - old for new, old in zip(last.sums, first.sums, strict=True))
        return Flow(lines / seconds, rows / seconds, raw_bytes / seconds, wire_bytes / seconds)
