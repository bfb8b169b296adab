"""Colours of card, pages and reports, in a light and a dark theme; beside each what tells it apart without colour. Pure.

A test computes the contrast of every one of them, and how far the colours of a group lie apart, also for the colour-blind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from protheon_dask.model import Outcome, RunState, TaskState


@dataclass(frozen=True, slots=True)
class Theme:
    """What is drawn on, and with. Colours as ``#rrggbb``.

    text, muted, link, good, warning and bad are readable (4.5 : 1) on background and on panel; faint is for what need not be read.
    """

    name: str
    background: str
    panel: str  # the second background: heads of tables, boxes
    text: str
    muted: str  # text of less weight
    link: str
    good: str
    warning: str
    bad: str
    border: str
    faint: str  # grid lines, the rest of a progress bar
    committed: str  # of a progress bar: solid
    in_flight: str  # of a progress bar: the lighter stripes


LIGHT: Final = Theme(
    name="light",
    background="#ffffff",
    panel="#f4f5f7",
    text="#1b1d21",
    muted="#565b66",
    link="#0b57c2",
    good="#12693a",
    warning="#8a4b00",
    bad="#b3151f",
    border="#d5d8de",
    faint="#e6e8ec",
    committed="#1a7f4b",
    in_flight="#5b93a8",
)
DARK: Final = Theme(
    name="dark",
    background="#111111",
    panel="#1b1d21",
    text="#e8eaed",
    muted="#a7adb8",
    link="#7fb2ff",
    good="#5fce92",
    warning="#f0b35a",
    bad="#ff8a80",
    border="#3c4048",
    faint="#2b2e34",
    committed="#3fb57a",
    in_flight="#6f9fb3",
)
THEMES: Final = (LIGHT, DARK)


@dataclass(frozen=True, slots=True)
class Look:
    """How one thing is drawn. Within a group no two share a label, symbol, dash, hatch or marker.

    dash: a line's, hatch: an area's, marker: a point's, each as Bokeh names it. symbol: one character for texts.
    """

    label: str
    light: str
    dark: str
    symbol: str
    dash: str
    hatch: str
    marker: str

    def color(self, theme: Theme) -> str:
        return self.dark if theme is DARK else self.light


STAGES: Final[Mapping[str, Look]] = {  # by model.STAGES
    "wait": Look("waiting", "#9f80a1", "#43ac9b", "w", "1 5", "dot", "asterisk"),
    "fetch": Look("fetch", "#2653c1", "#27709c", "f", "solid", "blank", "circle"),
    "decompress": Look("decompress", "#5285f8", "#acb8fe", "d", "6", "horizontal_line", "square"),
    "transform": Look("transform", "#3d2980", "#ab79f5", "t", "2 4", "right_diagonal_line", "triangle"),
    "copy": Look("copy", "#e45934", "#fb7b28", "c", "10 3", "left_diagonal_line", "diamond"),
    "merge": Look("merge", "#9c381c", "#b75135", "m", "6 3 2 3", "cross", "inverted_triangle"),
    "ledger": Look("ledger", "#695476", "#69f5c6", "l", "2 3 6 3", "vertical_line", "hex"),
    "commit": Look("commit", "#71073a", "#fbd509", "o", "12 3 2 3 2 3", "diagonal_cross", "star"),
}

RUN_STATES: Final[Mapping[str, Look]] = {  # by model.RunState
    RunState.QUEUED: Look("queued", "#5a6068", "#dfe3e7", "○", "2 4", "dot", "circle"),
    RunState.RUNNING: Look("running", "#2a1fa0", "#8fb4ff", "▶", "solid", "blank", "triangle"),
    RunState.PAUSED: Look("paused", "#7d5200", "#f5c252", "‖", "6", "vertical_line", "square"),
    RunState.SUCCEEDED: Look("succeeded", "#157347", "#43b98b", "✓", "10 3", "right_diagonal_line", "diamond"),
    RunState.INCOMPLETE: Look("incomplete", "#6b1a05", "#ed6e12", "!", "6 3 2 3", "left_diagonal_line", "inverted_triangle"),
    RunState.CANCELLED: Look("cancelled", "#8a3fd0", "#a97af0", "✕", "2 3 6 3", "diagonal_cross", "x"),
}
"""Names of states are written in these colours, so they are as readable as text."""

TASK_STATES: Final[Mapping[str, Look]] = {  # by model.TaskState: chunks
    TaskState.READY: Look("ready", "#82878f", "#a4a4ab", "○", "2 4", "dot", "circle"),
    TaskState.RUNNING: Look("in flight", "#2b3fc0", "#5f7cff", "▶", "6", "right_diagonal_line", "triangle"),
    TaskState.SUCCEEDED: Look("done", "#128a4a", "#6fe8bd", "✓", "solid", "blank", "square"),
    TaskState.DEAD: Look("dead", "#b0206a", "#e0384a", "✕", "10 3", "diagonal_cross", "x"),
    TaskState.CANCELLED: Look("cancelled", "#5a3a08", "#fbd509", "-", "6 3 2 3", "left_diagonal_line", "diamond"),
}

OUTCOMES: Final[Mapping[str, Look]] = {  # by model.Outcome: attempts, and retries by their cause
    Outcome.SUCCEEDED: Look("succeeded", "#17663a", "#6fe88a", "✓", "solid", "blank", "circle"),
    Outcome.FAILED: Look("failed", "#5c1024", "#c4504c", "✕", "10 3", "diagonal_cross", "x"),
    Outcome.RELEASED: Look("given back", "#4b7ff2", "#5b7cf5", "↩", "6", "right_diagonal_line", "triangle"),
    Outcome.CRASHED: Look("crashed", "#c4701a", "#fb8a38", "!", "6 3 2 3", "left_diagonal_line", "diamond"),
    Outcome.EXPIRED: Look("lease ran out", "#92179e", "#f2b8fa", "⌛", "2 4", "dot", "inverted_triangle"),
    Outcome.CANCELLED: Look("cancelled", "#807f86", "#a5a3aa", "-", "2 3 6 3", "horizontal_line", "square"),
}

TROUBLES: Final[Mapping[str, Look]] = {
    "rejects": Look("rejects", "#c2410c", "#f0a35a", "!", "solid", "left_diagonal_line", "triangle"),
    "retries": Look("retries", "#2f6fde", "#5b93f5", "↻", "6", "right_diagonal_line", "circle"),
    "dead_letters": Look("dead letters", "#5c0a3a", "#ff6b9d", "✕", "2 4", "diagonal_cross", "x"),
}

FLOWS: Final[Mapping[str, Look]] = {  # by the fields of picture.Flow
    "lines_per_s": Look("lines", "#0b2f9c", "#83b4dc", "L", "solid", "blank", "circle"),
    "rows_per_s": Look("rows", "#8f2a07", "#e0602f", "R", "6", "right_diagonal_line", "square"),
    "raw_bytes_per_s": Look("raw", "#b65ce6", "#9a62ec", "B", "10 3", "dot", "triangle"),
    "wire_bytes_per_s": Look("on the wire", "#15905a", "#3df2a4", "W", "2 4", "diagonal_cross", "diamond"),
}

WORKERS: Final[Mapping[str, Look]] = {  # by the status of picture.WorkerPicture
    "idle": Look("idle", "#82878f", "#8f959f", "○", "2 4", "dot", "circle"),
    "busy": Look("busy", "#1a7f4b", "#3fd08a", "●", "solid", "blank", "square"),
    "lost": Look("lost", "#8f0d16", "#ff6b5e", "✕", "6", "diagonal_cross", "x"),
}

GROUPS: Final[Mapping[str, Mapping[str, Look]]] = {
    "stages": STAGES,
    "run states": RUN_STATES,
    "task states": TASK_STATES,
    "outcomes": OUTCOMES,
    "troubles": TROUBLES,
    "flows": FLOWS,
    "workers": WORKERS,
}
"""What appears side by side in one drawing."""


def css_variables(theme: Theme) -> str:
    """The theme as declarations of CSS variables: ``--p-text:#1b1d21;--p-state-paused:#8a4b00;..``."""
    own = {field.name.replace("_", "-"): getattr(theme, field.name) for field in fields(theme) if field.name != "name"}
    states = {f"state-{state}": look.color(theme) for state, look in RUN_STATES.items()}
    return "".join(f"--p-{name}:{color};" for name, color in {**own, **states}.items())
