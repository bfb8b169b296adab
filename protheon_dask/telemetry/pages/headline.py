"""The first lines of the page: is all well, what bounds the work, and the choice of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from bokeh.models import Row
from bokeh.models.ui import UIElement
from bokeh.models.widgets import NumericInput, Select

from protheon_dask import words
from protheon_dask.telemetry import told
from protheon_dask.telemetry.board import MAX_RUN
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import Panel
from protheon_dask.telemetry.pages.view import View
from protheon_dask.telemetry.palette import LIGHT
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, ClusterPicture
from protheon_dask.telemetry.story import RunStory

CHOICE_PX = 300


class Headline(Panel):
    """What bounds the run, what is missing, and which run is looked at."""

    title = "Protheon"
    css = f"""
.lines {{ display: grid; grid-template-columns: auto 1fr; gap: 3px 12px; margin-top: 5px; }}
.lines .what {{ color: {LIGHT.muted}; }}
.lines .missing {{ color: {LIGHT.bad}; font-weight: 600; }}
"""

    def __init__(self, view: View, *, on_choice: Callable[[], None]) -> None:
        """on_choice: called after another run was chosen."""
        self._on_choice = on_choice
        super().__init__(view)

    def _make(self) -> Sequence[UIElement]:
        self._body = self.words()
        self._select = Select(title="Show", options=self.view.choices(), value=self._value(), width=CHOICE_PX, margin=0, name="choice")
        self._number = NumericInput(
            title="or an older run, by number", low=1, high=MAX_RUN, width=170, margin=0, name="run_number", placeholder="7"
        )
        self._select.on_change("value", lambda _attr, _old, new: self._choose(int(new) if new else None))
        self._number.on_change("value", lambda _attr, _old, new: self._choose(int(new)) if new else None)
        return [self._body, Row(children=[self._select, self._number], styles={"gap": "10px", "flex-wrap": "wrap"}, margin=0)]

    def _value(self) -> str:
        run = self.view.seen.run
        return "" if run is None else str(run)

    def _choose(self, run: int | None) -> None:
        if run != self.view.seen.run:
            self.view.choose(run)
            self._on_choice()

    def _draw(self) -> None:
        seen = self.view.seen
        choices = self.view.choices()
        if self._select.options != choices:
            self._select.options = choices
        if self._select.value != self._value():
            self._select.value = self._value()
        lines: list[tuple[str, str, str]] = []
        if seen.stale:
            lines.append(("missing", "missing", seen.stale))
        elif seen.picture:
            lines += [("missing", "missing", one) for one in seen.picture.missing] or [("missing", "good", "✓ nothing: work can flow")]
        if seen.run is not None:
            lines.append(("work", "", _of_run(seen.story) if seen.story else seen.waits_for_story or ""))
        elif seen.picture:
            lines.append(("work", "", seen.picture.bound or "nothing is worked on"))
        drawn = "".join(
            f'<span class="what">{what}</span><span class="{kind}" data-line="{what}">{markup.text(line)}</span>'
            for what, kind, line in lines
        )
        self.set_head(*(_figures(seen.picture) if seen.picture else ()))
        self.set_words(self._body, f'<div class="lines">{drawn}</div>')


def _figures(picture: ClusterPicture) -> list[str]:
    n = {status: sum(worker.status == status for worker in picture.workers) for status in (BUSY, IDLE, LOST)}
    lost = f", {n[LOST]} lost" if n[LOST] else ""
    return [
        markup.figure("version", picture.version),
        markup.figure("broker up for", words.duration(picture.uptime_s)),
        markup.figure("workers", words.count(n[BUSY] + n[IDLE]), f"({n[BUSY]} busy{lost})"),
        markup.figure("lines loaded so far", words.count(picture.totals.lines)),
    ]


def _of_run(story: RunStory) -> str:
    run = story.statistics
    from_ = f"submitted {_moment(story.submitted_at)}"
    told_at = None if story.ended_at is not None else f"told as of {_moment(story.as_of)}"  # minutes ago, of a run that is long to read
    bound = story.bound or ("not known: no chunk was loaded" if not run.own_lines else "not known")
    why = told.why(run)
    return " · ".join(part for part in (bound, from_, told_at, why if run.state.is_final else None) if part)


def _moment(at: float) -> str:
    return words.clock(datetime.fromtimestamp(at, UTC))
