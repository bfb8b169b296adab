"""The drawings of a run's report: its attempts on a time line, and what they brought. Pure: from RunStory to Bokeh's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    FixedTicker,
    NoOverlap,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.annotations import BoxAnnotation
from bokeh.plotting import figure

from protheon_dask import words
from protheon_dask.model import STAGES, Outcome
from protheon_dask.telemetry import palette, told
from protheon_dask.telemetry.pages.panel import dress, hover
from protheon_dask.telemetry.palette import LIGHT, Look
from protheon_dask.telemetry.story import RunStory, Span

CHART_PX: Final = 120  # height of a drawing over time
LANE_PX: Final = (20, 14, 8, 4)  # height of a worker's lane; the tallest with which the time line keeps to LANES_PX
LANES_PX: Final = 1_200
LEAST_LANES_PX: Final = 40
NAMED_LANES: Final = 60  # beyond, there is no room for a name beside each lane: only hosts are named
NAME_CHARACTERS: Final = 28
CHARACTER_PX: Final = 6.2  # of a name, in the mean: all drawings begin at the same place, so that a moment is below itself
LEAST_LEFT_PX: Final = 76
FILE_CHARACTERS: Final = 60  # of a file's path beside the pointer: its end tells it apart
LEAST_SHARE: Final = 0.005  # of an attempt: a shorter stage is no wider than a pixel
SMOOTHED_BINS: Final = 15  # a rate is a mean over so many pieces of time at most
UNITS: Final = ((86_400.0, 259_200.0, "days"), (3_600.0, 10_800.0, "hours"), (60.0, 180.0, "minutes"), (1.0, 0.0, "seconds"))
"""Seconds of a unit of time, the length from which on a run is drawn in it, and its name."""
HATCH: Final[dict[str, Any]] = {"hatch_color": "#ffffff", "hatch_alpha": 0.55, "hatch_scale": 7, "hatch_weight": 1.2}
TOOLS: Final = "xpan,xwheel_zoom,xbox_zoom,reset"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, and what is drawn in it: its legend stands beside it as text, which has room on any page."""

    figure: figure
    looks: tuple[Look, ...]
    as_lines: bool = False


class Clock:
    """The axis of time that all drawings of a run share, so that who looks closer at one does at all."""

    def __init__(self, story: RunStory) -> None:
        self.end_s = max([story.statistics.seconds, story.bin_s, *(span.end_s or span.start_s for span in story.spans)])
        self.unit_s, _, self.unit = next(unit for unit in UNITS if self.end_s >= unit[1])
        names = [_lane_name(*worker) for worker in lanes_of(story.spans)]
        self.left_px = max([LEAST_LEFT_PX, *(round(CHARACTER_PX * min(len(name), NAME_CHARACTERS)) + 16 for name in names)])
        self.range = Range1d(start=0, end=self.end_s / self.unit_s, bounds=(0, self.end_s / self.unit_s))

    def of(self, seconds: float | Sequence[float]) -> Any:
        """In the axis's unit, as four bytes each where there are many: a report is to stay small."""
        return (
            seconds / self.unit_s if isinstance(seconds, (int, float)) else np.asarray(seconds, dtype="float32") / np.float32(self.unit_s)
        )

    def figure(self, **more: Any) -> figure:
        made = figure(
            x_range=self.range,
            sizing_mode="stretch_width",
            x_axis_label=f"{self.unit} since it was submitted",
            tools=TOOLS,
            active_scroll=None,
            active_drag=None,
            toolbar_location="right",
            min_border_left=self.left_px,
            **more,
        )
        made.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
        made.toolbar.logo = None
        made.toolbar.autohide = True
        dress(made)
        return made


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Means over so many neighbours, of which there are fewer at the ends."""
    kernel = np.ones(max(1, min(width, len(values))))
    return list(np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")) if values else []


def smoothing_bins(story: RunStory) -> int:
    """Pieces of time over which a rate is taken: an attempt commits all of its lines at its end."""
    took = [span.end_s - span.start_s for span in story.spans if span.end_s is not None and span.outcome == Outcome.SUCCEEDED]
    return max(1, min(SMOOTHED_BINS, round(2 * float(np.mean(took)) / story.bin_s))) if took else 1


# --- attempts ---------------------------------------------------------------------------------------------------------------


def lanes_of(spans: Sequence[Span]) -> dict[tuple[str, str], int]:
    """The lane of each (host, worker) from 0 at the top: hosts together, each by name."""
    return {worker: no for no, worker in enumerate(sorted({(span.host, span.worker) for span in spans}))}


def time_line(story: RunStory, clock: Clock) -> Drawing:
    """Every attempt that the story tells as a bar in its worker's lane: its stages above, how it ended below where it had no effect."""
    lanes = lanes_of(story.spans)
    lane_px = next((px for px in LANE_PX if px * len(lanes) <= LANES_PX), LANE_PX[-1])
    made = clock.figure(frame_height=max(LEAST_LANES_PX, lane_px * len(lanes)), y_range=Range1d(start=len(lanes) - 0.4, end=-0.6))
    _name_lanes(made, list(lanes))
    _whole(made, story, clock, lanes)
    looks = (*_stages(made, story, clock, lanes), *_endings(made, story, clock, lanes))
    return Drawing(made, (*looks, NO_STAGE))


NO_STAGE: Final = Look("in no stage", LIGHT.border, LIGHT.border, "", "solid", "blank", "square")


def _name_lanes(made: figure, workers: Sequence[tuple[str, str]]) -> None:
    hosts: dict[str, list[int]] = {}
    for no, (host, _) in enumerate(workers):
        hosts.setdefault(host, []).append(no)
    for no, host_lanes in enumerate(hosts.values()):
        if no % 2:
            top, bottom = host_lanes[0] - 0.5, host_lanes[-1] + 0.5
            band = BoxAnnotation(top=top, bottom=bottom, fill_color=LIGHT.panel, fill_alpha=1.0, line_color=None, level="underlay")
            made.add_layout(band)
    if len(workers) <= NAMED_LANES:
        names = {no: _lane_name(*worker) for no, worker in enumerate(workers)}
    else:
        names = {(its[0] + its[-1]) // 2: host for host, its in hosts.items()}
    made.yaxis.ticker = FixedTicker(ticks=sorted(names), minor_ticks=[])
    made.yaxis.major_label_overrides = {no: words.visible(name, NAME_CHARACTERS) for no, name in names.items()}
    made.yaxis.major_label_policy = NoOverlap(min_distance=2)
    made.yaxis.formatter = CustomJSTickFormatter(code="return ''")  # ticks without a name of their own
    made.ygrid.visible = False


def _lane_name(host: str, worker: str) -> str:
    """A worker's name begins with its host's where nobody chose another."""
    return worker if worker.startswith(host) else f"{worker} on {host}"


def _end_s(story: RunStory, span: Span) -> float:
    return span.end_s if span.end_s is not None else max(story.statistics.seconds, span.start_s)


def _whole(made: figure, story: RunStory, clock: Clock, lanes: Mapping[tuple[str, str], int]) -> None:
    """All attempts as faint bars: what is not covered by a stage was none's; the pointer finds them here."""
    spans = story.spans
    lane = np.asarray([lanes[span.host, span.worker] for span in spans], dtype="float32")
    source = ColumnDataSource(
        {
            "left": clock.of([span.start_s for span in spans]),
            "right": clock.of([_end_s(story, span) for span in spans]),
            "top": lane - np.float32(0.4),
            "bottom": lane + np.float32(0.4),
            "what": [words.visible(_what(span)) for span in spans],
            "who": [words.visible(f"{span.worker} on {span.host}") for span in spans],
            "ended": [_ended(span) for span in spans],
            "error": [words.visible(told.short_error(span.error_class, span.message)) or "-" for span in spans],
            "when": [_when(story, span) for span in spans],
            "stages": [_spent(span) for span in spans],
        }
    )
    # a line of the same colour: of very many short ones each is to be seen
    bars = made.quad("left", "right", "top", "bottom", source=source, fill_color=LIGHT.border, line_color=LIGHT.border, line_width=1)
    fields = (("chunk", "what"), ("worker", "who"), ("ended", "ended"), ("error", "error"), ("time", "when"), ("stages", "stages"))
    hover(made, [(name, f"@{field}") for name, field in fields], renderers=[bars], point_policy="follow_mouse", attachment="below")


def _what(span: Span) -> str:
    if span.chunk_no is None:
        return f"task {span.task_id}, attempt {span.attempt_no}"
    path = span.path or ""
    where = path if len(path) <= FILE_CHARACTERS else f"..{path[-FILE_CHARACTERS:]}"
    return f"{words.count(span.chunk_no)} of {where}, attempt {span.attempt_no}"


def _ended(span: Span) -> str:
    if span.outcome is None:
        return "it runs"
    label = palette.OUTCOMES[span.outcome].label
    lines = words.counted(span.lines, "line")
    return f"{label}, {lines}" if span.outcome == Outcome.SUCCEEDED else f"{label}, charged to its task: {span.cost}"


def _when(story: RunStory, span: Span) -> str:
    return f"from {words.duration(span.start_s)} on for {words.duration(_end_s(story, span) - span.start_s)}"


def _spent(span: Span) -> str:
    spent = [f"{palette.STAGES[name].label} {words.duration(span.stage_seconds[name])}" for name in STAGES if span.stage_seconds.get(name)]
    return ", ".join(spent) or "-"


def _stages(made: figure, story: RunStory, clock: Clock, lanes: Mapping[tuple[str, str], int]) -> list[Look]:
    """The stages of each attempt beside each other, each as long as it took in all: in truth they take turns, batch by batch."""
    parts: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in STAGES}
    for span in story.spans:
        took_s, left_s = _end_s(story, span) - span.start_s, span.start_s
        known_s = sum(span.stage_seconds.values())
        scale = min(1.0, took_s / known_s) if known_s else 0.0  # stages that overlap are not to leave their attempt
        lane = lanes[span.host, span.worker]
        bottom = lane + (0.4 if span.outcome == Outcome.SUCCEEDED else 0.05)
        for name in STAGES:
            seconds = scale * span.stage_seconds.get(name, 0.0)
            if seconds > LEAST_SHARE * took_s:
                parts[name].append((left_s, left_s + seconds, lane - 0.4, bottom))
            left_s += seconds
    looks = []
    for name, its in parts.items():
        if its:
            left, right, top, bottoms = np.asarray(its, dtype="float32").T
            source = ColumnDataSource({"left": clock.of(left), "right": clock.of(right), "top": top, "bottom": bottoms})
            look = palette.STAGES[name]
            made.quad(
                "left", "right", "top", "bottom", source=source, fill_color=look.light, line_color=None, hatch_pattern=look.hatch, **HATCH
            )  # fmt: skip
            looks.append(look)
    return looks


def _endings(made: figure, story: RunStory, clock: Clock, lanes: Mapping[tuple[str, str], int]) -> list[Look]:
    """What ended without effect, or runs: a band below its stages, and a mark at its end."""
    kinds: dict[str | None, Look] = {**{outcome: look for outcome, look in palette.OUTCOMES.items() if outcome != Outcome.SUCCEEDED}}
    kinds[None] = palette.TASK_STATES["running"]
    looks = []
    for outcome, look in kinds.items():
        spans = [span for span in story.spans if span.outcome == outcome]
        if not spans:
            continue
        lane = np.asarray([lanes[span.host, span.worker] for span in spans], dtype="float32")
        ends = clock.of([_end_s(story, span) for span in spans])
        source = ColumnDataSource({"left": clock.of([span.start_s for span in spans]), "right": ends, "lane": lane})
        source.data["top"], source.data["bottom"] = lane + np.float32(0.05), lane + np.float32(0.4)
        made.quad(
            "left", "right", "top", "bottom", source=source, fill_color=look.light, line_color=look.light, hatch_pattern=look.hatch, **HATCH
        )  # fmt: skip
        made.scatter("right", "lane", source=source, marker=look.marker, size=9, color=look.light, fill_alpha=0.4, line_width=2)
        looks.append(look)
    return looks


# --- over time --------------------------------------------------------------------------------------------------------------


def rates(story: RunStory, clock: Clock, names: Sequence[str], y_label: str) -> Drawing:
    """Some of palette.FLOWS over time: a mean over as long as two attempts take, for each commits all at once."""
    made = clock.figure(frame_height=CHART_PX, y_axis_label=y_label, y_range=DataRange1d(start=0, default_span=1, range_padding=0.12))
    at, width = clock.of([piece.start_s + story.bin_s / 2 for piece in story.bins]), smoothing_bins(story)
    columns: dict[str, Any] = {"at": at}
    for name in names:
        field, scale = FLOW_FIELDS[name]
        columns[name] = np.asarray(smoothed([getattr(piece, field) * scale / story.bin_s for piece in story.bins], width), dtype="float32")
    source = ColumnDataSource(columns)
    lines = [
        made.line("at", name, source=source, line_color=palette.FLOWS[name].light, line_width=2, line_dash=palette.FLOWS[name].dash)
        for name in names
    ]
    made.yaxis.formatter = NumeralTickFormatter(format=_digits(max(columns[name].max(initial=0.0) for name in names)))
    hover(made, [(palette.FLOWS[name].label, f"@{name}{{0,0.[000]}}") for name in names], mode="vline", renderers=lines[:1])
    return Drawing(made, tuple(palette.FLOWS[name] for name in names), as_lines=True)


def _digits(most: float) -> str:
    """As many as neighbouring ticks need to differ."""
    return "0,0.[0]" if most >= 2 else "0,0.[00]" if most >= 0.2 else "0,0.[00000]"


FLOW_FIELDS: Final[Mapping[str, tuple[str, float]]] = {
    "lines_per_s": ("lines", 1.0),
    "rows_per_s": ("rows", 1.0),
    "raw_bytes_per_s": ("raw_bytes", 1e-6),
    "wire_bytes_per_s": ("wire_bytes", 1e-6),
}


def time_spent(story: RunStory, clock: Clock) -> Drawing:
    """How many attempts were in each stage at a time, on an average: seconds of the stage a second."""
    values = {name: [piece.stage_seconds.get(name, 0.0) / story.bin_s for piece in story.bins] for name in STAGES}
    return _stacked(story, clock, values, palette.STAGES, "attempts at work")


def troubles(story: RunStory, clock: Clock) -> Drawing | None:
    """Attempts without effect, by how they ended, and dead letters, over time; None: there was none."""
    outcomes: dict[str, Look] = {str(outcome): look for outcome, look in palette.OUTCOMES.items()}
    values = {name: [float(piece.retries_by_cause.get(name, 0)) for piece in story.bins] for name in outcomes}
    values["dead_letters"] = [float(piece.dead_letters) for piece in story.bins]
    looks = {**outcomes, "dead_letters": palette.TROUBLES["dead_letters"]}
    return _counted(_stacked(story, clock, values, looks, "attempts")) if any(map(any, values.values())) else None


def rejects(story: RunStory, clock: Clock) -> Drawing | None:
    """Lines, and parts of lines, that were refused, over time; None: there were none."""
    values = {"rejects": [float(piece.rejects) for piece in story.bins]}
    return _counted(_stacked(story, clock, values, palette.TROUBLES, "refused")) if any(values["rejects"]) else None


def _counted(drawing: Drawing) -> Drawing:
    """With an axis of whole numbers."""
    drawing.figure.yaxis.ticker = BasicTicker(min_interval=1, desired_num_ticks=4, num_minor_ticks=0)
    return drawing


def _stacked(story: RunStory, clock: Clock, values: Mapping[str, Sequence[float]], looks: Mapping[str, Look], y_label: str) -> Drawing:
    made = clock.figure(frame_height=CHART_PX, y_axis_label=y_label, y_range=DataRange1d(start=0, default_span=1, range_padding=0.12))
    names = [name for name in values if any(values[name])]
    left = [piece.start_s for piece in story.bins]
    columns: dict[str, Any] = {"left": clock.of(left), "right": clock.of([start_s + story.bin_s for start_s in left])}
    below = np.zeros(len(story.bins))
    for name in names:
        columns[f"{name}_from"], below = below.astype("float32"), below + np.asarray(values[name])
        columns[f"{name}_to"], columns[name] = below.astype("float32"), np.asarray(values[name], dtype="float32")
    source = ColumnDataSource(columns)
    for name in names:
        look = looks[name]
        bars = made.quad(
            "left", "right", f"{name}_to", f"{name}_from", source=source, fill_color=look.light, line_color=None, hatch_pattern=look.hatch,
            **HATCH,
        )  # fmt: skip
        hover(made, [(look.label, f"@{name}{{0,0.[00]}}")], renderers=[bars])
    return Drawing(made, tuple(looks[name] for name in names))
