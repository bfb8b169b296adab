"""What all panels have: a head with title and numbers, a card around it, axes of one kind. Bokeh, no Dask."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from bokeh.models import (
    BasicTicker,
    Column,
    ColumnDataSource,
    DatetimeTicker,
    DatetimeTickFormatter,
    HoverTool,
    InlineStyleSheet,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.ui import UIElement
from bokeh.models.widgets import Div
from bokeh.plotting import figure

from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.view import View
from protheon_dask.telemetry.palette import LIGHT
from protheon_dask.telemetry.story import Bin, RunStory

logger = logging.getLogger(__name__)

CHART_PX: Final = 150  # height of a chart on the page
TIMES_PX: Final = 38  # of it: the axis of time
WINDOW_S: Final = 900.0  # of the drawings over time: what the series keeps
LEAST_WINDOW_S: Final = 120.0  # shown at least, so that the first seconds are no wall
HEADROOM: Final = 1.12  # of an axis above the highest value
GAP_S: Final = 5.0  # samples that lie further apart are not joined by a line: nobody knows what was between
FONT: Final = "Helvetica, Arial, sans-serif"
HATCH: Final[dict[str, Any]] = {"hatch_color": "#ffffff", "hatch_alpha": 0.5, "hatch_scale": 9, "hatch_weight": 1.2}
"""How every hatched area is hatched."""


class Panel:
    """One panel: ``root`` to show, ``source`` with what its chart draws, ``update()`` to draw anew. Draws what its view sees.

    Subclasses name their title, make their parts in _make and set them in _draw.
    Guarantee: update() raises nothing: a panel that cannot be drawn says so in its place, and the page goes on.
    """

    title: ClassVar[str]
    css: ClassVar[str] = ""

    def __init__(self, view: View, *, alone: bool = False) -> None:
        """alone: it has a page of its own, and fills it."""
        self.view, self.alone = view, alone
        self.source = ColumnDataSource()
        self._head = self.words(markup.head(self.title))
        self._told_failure: str | None = None
        self._stale = self.words()
        self.root: UIElement = Column(
            children=[self._head, *([self._stale] if alone else []), *self._make()],
            sizing_mode="stretch_both" if alone else "stretch_width",
            styles=CARD | ({} if alone else {"margin": "0"}),
            css_classes=["protheon-panel", f"protheon-{type(self).__name__.lower()}"],
        )

    def update(self) -> None:
        """Draw what the view sees."""
        if self.alone:  # else the page's first lines say it
            self.set_words(self._stale, markup.note(self.view.seen.stale or "", "bad") if self.view.seen.stale else "")
        try:
            self._draw()
            self._told_failure = None
        except Exception as exc:
            failure = f"{type(exc).__name__}: {exc}"
            if failure != self._told_failure:  # once a mistake, not once a second
                logger.exception("page.panel_failed", extra={"panel": self.title})
            self._told_failure = failure
            self.set_head(markup.note(f"could not be drawn ({failure}): the scheduler's log has the traceback", "bad"))

    def _make(self) -> Sequence[UIElement]:
        raise NotImplementedError

    def _draw(self) -> None:
        raise NotImplementedError

    # --- parts ----------------------------------------------------------------------------------------------------------

    def words(self, html: str = "", **more: Any) -> Div:
        """A piece of HTML in the panel."""
        style = InlineStyleSheet(css=markup.CSS + self.css)
        return Div(text=html, sizing_mode="stretch_width", margin=0, stylesheets=[style], disable_math=True, **more)

    def set_head(self, *pieces: str) -> None:
        """Numbers beside the title; only what changed is sent."""
        self.set_words(self._head, markup.head(self.title, *pieces))

    @staticmethod
    def set_words(div: Div, html: str) -> None:
        if div.text != html:
            div.text = html

    def chart(self, y_label: str, y_format: str = "0,0", *, times: bool = True, height_px: int = CHART_PX, **more: Any) -> figure:
        """Axes over time, from zero up. times: written below; not where a chart of the same time stands below."""
        made = figure(
            x_axis_type="datetime",
            x_axis_label="time (UTC)" if times else None,
            y_axis_label=y_label,
            x_range=more.pop("x_range", None) or Range1d(start=0, end=1),
            y_range=more.pop("y_range", None) or Range1d(start=0, end=1),
            toolbar_location=None,
            tools="",
            min_width=200,
            **self._size(height_px - (0 if times else TIMES_PX)),
            **more,
        )
        made.yaxis.formatter = NumeralTickFormatter(format=y_format)
        made.yaxis.ticker = BasicTicker(desired_num_ticks=4, num_minor_ticks=0)
        made.xaxis.ticker = DatetimeTicker(desired_num_ticks=5, num_minor_ticks=0)
        made.xaxis.formatter = DatetimeTickFormatter(seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M", hourmin="%H:%M", hours="%H:%M")
        made.xaxis.visible = times
        return dress(made)

    def _size(self, height_px: int) -> dict[str, Any]:
        if self.alone:
            return {"sizing_mode": "stretch_both", "min_height": 90}
        return {"sizing_mode": "stretch_width", "height": height_px}


CARD: Final[dict[str, str | None]] = {
    "background": LIGHT.background,
    "border": f"1px solid {LIGHT.border}",
    "border-radius": "5px",
    "padding": "8px 10px",
    "gap": "4px",
    "overflow": "hidden auto",
}


def dress(made: figure) -> figure:
    """Quiet axes: the data are what is to be seen."""
    for axis in (*made.xaxis, *made.yaxis):
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = LIGHT.muted
        axis.axis_label_standoff = 2
        axis.axis_line_color = axis.major_tick_line_color = LIGHT.border
        axis.minor_tick_line_color = None
    made.grid.grid_line_color = LIGHT.faint
    made.outline_line_color = None
    made.min_border_right = 12
    return made


def hover(made: figure, tooltips: Sequence[tuple[str, str]], **more: Any) -> None:
    made.add_tools(HoverTool(tooltips=list(tooltips), **more))


def set_range(range_: Range1d, start: float, end: float) -> None:
    if (range_.start, range_.end) != (start, end):
        range_.update(start=start, end=end)


def show_live_window(range_: Range1d, first_at: float, last_at: float) -> None:
    """The last minutes in milliseconds of the epoch, as wide as there is something to show."""
    seconds = min(WINDOW_S, max(LEAST_WINDOW_S, last_at - first_at))
    set_range(range_, 1e3 * (last_at - seconds), 1e3 * last_at)


def show_height(range_: Range1d, highest: float, least: float) -> None:
    """From zero to a little above what is drawn; least: where there is little or nothing, so that marks of the axis stay whole."""
    set_range(range_, 0.0, max(least, HEADROOM * highest))


class Stream:
    """Brings a source to what the view sees: the newest samples are appended, another story replaces everything.

    Bounded: as many rows as the series keeps. Only new rows travel to the browser.
    """

    def __init__(self, source: ColumnDataSource, columns: Sequence[str], most: int) -> None:
        self._source, self._columns, self._most = source, columns, most
        self._shown: object = None
        self._last_at = 0.0
        source.data = {name: np.array([]) for name in columns}

    def replace(self, what: object, rows: Mapping[str, Sequence[float]] | None) -> None:
        """Show these rows; what: whose they are. The same again costs nothing, and rows may be None then."""
        if rows is not None:
            self._source.data = {name: np.asarray(rows[name], dtype=float) for name in self._columns}
        self._shown, self._last_at = what, 0.0

    def shows(self, what: object) -> bool:
        return self._shown is what

    def begin(self, what: object) -> float:
        """The moment after which rows are wanted: all, where something else was shown."""
        if self._shown is not what:
            self._source.data = {name: np.array([]) for name in self._columns}
            self._shown, self._last_at = what, 0.0
        return self._last_at

    def highest(self, columns: Sequence[str], time: Range1d) -> float:
        """The largest value in these columns of what the range shows; 0 where there is none."""
        data: Any = self._source.data
        seen = np.asarray(data["at"]) >= time.start
        values = np.concatenate([np.asarray(data[name])[seen] for name in columns])
        values = values[np.isfinite(values)]
        return float(values.max()) if values.size else 0.0

    def append(self, at: Sequence[float], rows: Mapping[str, Sequence[float]]) -> None:
        """Rows that are newer, with a gap where nothing was heard. rows has ``at`` in milliseconds too."""
        if not at:
            return
        values = {name: list(rows[name]) for name in self._columns}
        times = [self._last_at or at[0], *at]
        for place in range(len(at), 0, -1):
            if times[place] - times[place - 1] > GAP_S:
                for name, column in values.items():
                    column.insert(place - 1, 1e3 * (times[place - 1] + 1) if name == "at" else float("nan"))
        self._last_at = at[-1]
        self._source.stream({name: np.asarray(column, dtype=float) for name, column in values.items()}, rollover=self._most)


def show_story_window(range_: Range1d, story: RunStory) -> None:
    """From the run's submission to its end, or to now."""
    set_range(range_, 1e3 * story.submitted_at, 1e3 * (story.submitted_at + max(story.statistics.seconds, story.bin_s, 1.0)))


def whole_bins(story: RunStory) -> Sequence[Bin]:
    """Without the last one of a run that goes on: it fills still, and would look like a standstill."""
    return story.bins if story.ended_at is not None else story.bins[:-1]
