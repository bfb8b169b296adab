"""How fast: lines and rows, raw bytes and those on the wire, over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from bokeh.models import Range1d
from bokeh.models.ui import UIElement
from bokeh.plotting import figure

from protheon_dask import words
from protheon_dask.telemetry.pace import WINDOW_STEPS
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import Panel, Stream, hover, show_height, show_live_window, show_story_window, whole_bins
from protheon_dask.telemetry.palette import FLOWS, LIGHT
from protheon_dask.telemetry.series import KEPT, Sample
from protheon_dask.telemetry.story import Bin, RunStory

COLUMNS: Final = ("at", "lines_per_s", "rows_per_s", "raw_mb_per_s", "wire_mb_per_s")
LOOKS: Final = dict(
    zip(COLUMNS[1:], (FLOWS[name] for name in ("lines_per_s", "rows_per_s", "raw_bytes_per_s", "wire_bytes_per_s")), strict=True)
)
PAIRS: Final = (COLUMNS[1:3], COLUMNS[3:5])
"""What shares a chart."""
LEAST_POINTS: Final = 8  # of a line, however few chunks it is of
LEAST: Final = (10.0, 1.0)  # a second and MB/s: heights of charts with nothing in them


class Throughput(Panel):
    """Four lines in two charts above one time."""

    title = "Throughput"

    def _make(self) -> Sequence[UIElement]:
        self._stream = Stream(self.source, COLUMNS, KEPT)
        self._time = Range1d(start=0, end=1)
        self._heights = [Range1d(start=0, end=least) for least in LEAST]
        above = self._lines("a second", "0,0", PAIRS[0], times=False, y_range=self._heights[0])
        return [above, self._lines("MB/s", "0,0.[0]", PAIRS[1], y_range=self._heights[1])]

    def _lines(self, y_label: str, y_format: str, columns: Sequence[str], **more: Any) -> figure:
        made = self.chart(y_label, y_format, x_range=self._time, **more)
        for column in columns:
            look = LOOKS[column]
            dash = "solid" if look.dash == "solid" else [int(part) for part in look.dash.split()]
            made.line("at", column, source=self.source, line_color=look.light, line_dash=dash, line_width=2)
        tips = [(LOOKS[column].label, f"@{column}{{{y_format}}} {y_label}") for column in columns]
        first = made.renderers[:1]  # one tooltip for both lines
        hover(made, [("time", "@at{%H:%M:%S}"), *tips], mode="vline", formatters={"@at": "datetime"}, renderers=first)
        return made

    def _draw(self) -> None:
        seen = self.view.seen
        if seen.run is not None:
            if seen.story is None:
                self._show_none()
                self.set_head(markup.figure("", seen.waits_for_story or ""))
                return
            self._draw_story(seen.story)
            return
        series = seen.series
        new = series.since(self._stream.begin(series))
        self._stream.append([sample.at for sample in new], columns_of(new))
        if seen.picture is None:
            return
        flow = seen.picture.flow
        at = [sample.at for sample in (next(iter(series), None),) if sample]
        show_live_window(self._time, at[0] if at else seen.picture.at, seen.picture.at)
        self._tell(flow.lines_per_s, flow.rows_per_s, flow.raw_bytes_per_s / 1e6, flow.wire_bytes_per_s / 1e6)

    def _draw_story(self, story: RunStory) -> None:
        run = story.statistics
        if not self._stream.shows(story):
            bins, n = coarser(whole_bins(story), run.chunks_done)
            seconds = n * story.bin_s
            scale = 1.0 / seconds if seconds > 0 else 0.0
            self._stream.replace(
                story,
                {
                    "at": [1e3 * (story.submitted_at + one.start_s + seconds / 2) for one in bins],
                    "lines_per_s": [one.lines * scale for one in bins],
                    "rows_per_s": [one.rows * scale for one in bins],
                    "raw_mb_per_s": [one.raw_bytes * scale / 1e6 for one in bins],
                    "wire_mb_per_s": [one.wire_bytes * scale / 1e6 for one in bins],
                },
            )
            show_story_window(self._time, story)
        wire_mb_per_s = run.wire_bytes / 1e6 / run.seconds if run.seconds > 0 else 0.0
        self._tell(run.lines_per_s, run.rows_per_s, run.raw_mb_per_s, wire_mb_per_s, "in the mean")

    def _show_none(self) -> None:
        self._stream.begin(None)

    def _tell(self, lines: float, rows: float, raw_mb: float, wire_mb: float, more: str = "") -> None:
        units = ("/s", "/s", "MB/s", "MB/s")
        pieces = [
            markup.figure(LOOKS[name].label, words.rate(value), unit, markup.stroke(LOOKS[name]))
            for name, value, unit in zip(LOOKS, (lines, rows, raw_mb, wire_mb), units, strict=True)
        ]
        for pair, height, least in zip(PAIRS, self._heights, LEAST, strict=True):
            show_height(height, self._stream.highest(pair, self._time), least)
        self.set_head(*pieces, f'<span style="color:{LIGHT.muted}">{more}</span>' if more else "")


def coarser(bins: Sequence[Bin], chunks: int) -> tuple[list[Bin], int]:
    """Bins of several each, and of how many: a chunk is committed at once, and a bin between two commits would look like a standstill.

    Each has the commits of four chunks in the mean, as rates of a run at work do; at least eight stay, and a rest at the end is left out.
    """
    n = max(1, min(math.ceil(WINDOW_STEPS * len(bins) / max(1, chunks)), len(bins) // LEAST_POINTS))
    wide = []
    for first in range(0, len(bins) - n + 1, n):
        part = bins[first : first + n]
        sums = {name: sum(getattr(one, name) for one in part) for name in ("lines", "rows", "raw_bytes", "wire_bytes")}
        wide.append(replace(part[0], **sums))
    return wide, n


def columns_of(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Rows of the source, time in milliseconds."""
    return {
        "at": [1e3 * sample.at for sample in samples],
        "lines_per_s": [sample.lines_per_s for sample in samples],
        "rows_per_s": [sample.rows_per_s for sample in samples],
        "raw_mb_per_s": [sample.raw_bytes_per_s / 1e6 for sample in samples],
        "wire_mb_per_s": [sample.wire_bytes_per_s / 1e6 for sample in samples],
    }
