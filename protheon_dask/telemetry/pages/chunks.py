"""Chunks by state: one bar of all of them, and a number each. A million cost what ten cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bokeh.models.ui import UIElement

from protheon_dask import words
from protheon_dask.model import TaskState
from protheon_dask.telemetry import palette
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import Panel
from protheon_dask.telemetry.palette import TASK_STATES

ORDER = (TaskState.SUCCEEDED, TaskState.RUNNING, TaskState.READY, TaskState.DEAD, TaskState.CANCELLED)
LEAST_SHARE = 0.006  # of the bar, for a state that has any: three dead chunks in a million are to be seen


class Chunks(Panel):
    """A bar with hatches, and a tile for each state."""

    title = "Chunks by state"
    css = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); gap: 6px 12px; margin-top: 8px; }
.tile { border-left: 3px solid; padding-left: 8px; min-width: 0; }
.tile b { display: block; font-size: 17px; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.bar { height: 22px; margin-top: 4px; }
"""

    def _make(self) -> Sequence[UIElement]:
        self._body = self.words()
        return [self._body]

    def _draw(self) -> None:
        seen = self.view.seen
        if seen.run is None:
            totals = seen.picture.totals if seen.picture else None
            if totals is None:
                self._tell({}, "")
                return
            self._tell(
                {
                    TaskState.SUCCEEDED: totals.tasks_succeeded,
                    TaskState.RUNNING: totals.tasks_running,
                    TaskState.READY: totals.tasks_ready,
                    TaskState.DEAD: totals.tasks_dead,
                    TaskState.CANCELLED: totals.tasks_cancelled,
                },
                "chunks and tasks of all runs",
            )
            return
        run = seen.statistics
        if run is None:
            self._tell({}, "")
            return
        more = "" if run.split_done else ", more are being cut"
        self._tell(
            {
                TaskState.SUCCEEDED: run.chunks_done,
                TaskState.RUNNING: run.chunks_running,
                TaskState.READY: run.chunks_ready,
                TaskState.DEAD: run.chunks_dead,
                TaskState.CANCELLED: run.chunks_cancelled,
            },
            f"of run {run.run}{more}",
        )

    def _tell(self, counts: Mapping[TaskState, int], whose: str) -> None:
        total = sum(counts.values())
        self.source.data = {"state": [TASK_STATES[state].label for state in ORDER], "n": [counts.get(state, 0) for state in ORDER]}
        if not total:
            self.set_head()
            self.set_words(self._body, markup.note("No chunk has been cut yet." if whose else ""))
            return
        self.set_head(markup.figure("all:", words.count(total), whose))
        shares = {state: max(LEAST_SHARE, counts.get(state, 0) / total) if counts.get(state, 0) else 0.0 for state in ORDER}
        whole = sum(shares.values())
        parts = [(shares[state] / whole, markup.area(TASK_STATES[state])) for state in ORDER]
        self.set_words(self._body, markup.bar(*parts, tooltip="chunks by state") + self._tiles(counts, total))

    @staticmethod
    def _tiles(counts: Mapping[TaskState, int], total: int) -> str:
        tiles = []
        for state in ORDER:
            look, n = palette.TASK_STATES[state], counts.get(state, 0)
            tiles.append(
                f'<div class="tile" style="border-color:{look.light}" data-figure="{markup.text(look.label)}">'
                f'<b>{words.count(n)}</b>{markup.swatch(look)}{look.label} <span class="unit">{share(n, total)}</span></div>'
            )
        return f'<div class="tiles">{"".join(tiles)}</div>'


def share(n: int, total: int) -> str:
    """Whole percents; what is there is never 0 %."""
    return "" if not n else words.percent(n / total) if n / total >= 0.01 else "< 1 %"
