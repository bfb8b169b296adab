"""What went wrong over time: attempts without effect by cause, dead letters, and lines that were refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from bokeh.models import Range1d
from bokeh.models.ui import UIElement

from protheon_dask import words
from protheon_dask.model import Outcome
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import HATCH, LEAST_WINDOW_S, WINDOW_S, Panel, hover, set_range, show_height, show_story_window
from protheon_dask.telemetry.palette import OUTCOMES, TROUBLES
from protheon_dask.telemetry.series import Sample, Series
from protheon_dask.telemetry.story import RunStory

BIN_S: Final = 15.0  # of the last minutes: sixty bars
LEAST: Final = 4.0  # height of a chart: so that its marks are whole numbers
CAUSES: Final = (Outcome.FAILED, Outcome.CRASHED, Outcome.EXPIRED, Outcome.RELEASED, Outcome.CANCELLED)
DEAD: Final = "dead_letters"
STACKED: Final = (*map(str, CAUSES), DEAD)
LOOKS: Final = {**{str(cause): OUTCOMES[cause] for cause in CAUSES}, DEAD: replace(TROUBLES["dead_letters"], hatch="blank")}
"""A dead letter stands on the attempts that failed, and is of another group of the palette: solid, which none of them is."""

Rows = dict[str, list[float]]


class Troubles(Panel):
    """Stacked bars of chunks above, refused lines below, on one time."""

    title = "Troubles"

    def _make(self) -> Sequence[UIElement]:
        self.source.data = {**_empty()}
        self._rows, self._bins = _empty(), _Bins()
        self._time = Range1d(start=0, end=1)
        self._drawn: object = None
        self._heights = (Range1d(start=0, end=LEAST), Range1d(start=0, end=LEAST))
        chunks = self.chart("chunks", "0,0", times=False, x_range=self._time, y_range=self._heights[0])
        chunks.vbar_stack(
            list(STACKED),
            x="at",
            width="width",
            source=self.source,
            color=[LOOKS[name].light for name in STACKED],
            line_color=None,
            hatch_pattern=[LOOKS[name].hatch for name in STACKED],
            **HATCH,
        )
        time = ("from", "@at{%H:%M:%S}")
        tips = [(LOOKS[name].label, f"@{name}{{0,0}}") for name in STACKED]
        hover(chunks, [time, *tips], mode="vline", formatters={"@at": "datetime"}, renderers=chunks.renderers[:1])
        lines = self.chart("rejects", "0,0", x_range=self._time, y_range=self._heights[1])
        look = TROUBLES["rejects"]
        lines.vbar(
            "at", top="rejects", width="width", source=self.source, fill_color=look.light, line_color=None, hatch_pattern=look.hatch,
            **HATCH,
        )  # fmt: skip
        hover(lines, [time, ("rejects", "@rejects{0,0}")], mode="vline", formatters={"@at": "datetime"})
        return [chunks, lines]

    def _draw(self) -> None:
        seen = self.view.seen
        if seen.run is None:
            self._draw_now(seen.series, None if seen.picture is None else seen.picture.at)
        elif seen.story is None:
            self._set(None, _empty())
            self.set_head()
        elif self._drawn is not seen.story:
            self._set(seen.story, _of_story(seen.story))
            show_story_window(self._time, seen.story)
            self._tell(self._rows)

    def _draw_now(self, series: Series, at: float | None) -> None:
        if at is None:
            self.set_head()
            return
        rows = self._bins.rows(series, at)
        self._set(series, rows)
        last_at = BIN_S * (at // BIN_S + 1)
        first = next(iter(series), None)
        seconds = min(WINDOW_S, max(LEAST_WINDOW_S, BIN_S * ((at - first.at) // BIN_S + 2))) if first else WINDOW_S
        set_range(self._time, 1e3 * (last_at - seconds), 1e3 * last_at)
        self._tell(rows)

    def _set(self, whose: object, rows: Rows) -> None:
        if self._drawn is whose and self._rows == rows:
            return
        self._drawn, self._rows = whose, rows
        self.source.data = {name: np.asarray(column) for name, column in rows.items()}
        show_height(self._heights[0], max(map(sum, zip(*(rows[name] for name in STACKED), strict=True)), default=0.0), LEAST)
        show_height(self._heights[1], max(rows["rejects"], default=0.0), LEAST)

    def _tell(self, rows: Rows) -> None:
        sums = {name: int(sum(rows[name])) for name in ("rejects", *STACKED)}
        pieces = [markup.figure(LOOKS[name].label, words.count(sums[name]), "", markup.swatch(LOOKS[name])) for name in map(str, CAUSES)]
        self.set_head(
            markup.figure("retries", words.count(sum(sums[cause] for cause in CAUSES))),
            *(piece for piece, cause in zip(pieces, CAUSES, strict=True) if sums[cause]),
            markup.figure("dead letters", words.count(sums[DEAD]), "", markup.swatch(LOOKS[DEAD])),
            markup.figure("rejects", words.count(sums["rejects"]), "", markup.swatch(TROUBLES["rejects"])),
        )


def _empty() -> Rows:
    return {name: [] for name in ("at", "width", "rejects", *STACKED)}


class _Bins:
    """What came in each piece of the last minutes that has anything: at most sixty-one. Looks at each sample once."""

    def __init__(self) -> None:
        self._last: Sample | None = None
        self._bins: dict[float, dict[str, float]] = {}

    def rows(self, series: Series, at: float) -> Rows:
        for sample in series.since(self._last.at if self._last else 0.0):
            if self._last is not None:
                self._add(self._last, sample)
            self._last = sample
        self._bins = {start: bin_ for start, bin_ in self._bins.items() if start > at - WINDOW_S - BIN_S}
        rows = _empty()
        for start, bin_ in self._bins.items():
            _add(rows, start, BIN_S, bin_)
        return rows

    def _add(self, before: Sample, after: Sample) -> None:
        rises = {str(cause): n - before.retries_by_cause.get(cause, 0) for cause, n in after.retries_by_cause.items()}
        rises[DEAD] = after.dead_letters - before.dead_letters
        rises["rejects"] = after.rejects - before.rejects
        if any(n > 0 for n in rises.values()):
            bin_ = self._bins.setdefault(BIN_S * (after.at // BIN_S), {})
            for name, n in rises.items():
                bin_[name] = bin_.get(name, 0) + max(0, n)


def _of_story(story: RunStory) -> Rows:
    rows = _empty()
    for one in story.bins:
        _add(rows, story.submitted_at + one.start_s, story.bin_s, {**one.retries_by_cause, DEAD: one.dead_letters, "rejects": one.rejects})
    return rows


def _add(rows: Rows, start: float, seconds: float, values: Mapping[str, float]) -> None:
    rows["at"].append(1e3 * (start + seconds / 2))
    rows["width"].append(900.0 * seconds)  # nine tenths, in milliseconds
    for name in ("rejects", *STACKED):
        rows[name].append(float(values.get(name, 0)))
