"""The palette: readable on both themes, and nothing told apart by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import combinations, pairwise
from typing import Final

import bokeh.core.enums as bokeh_enums
import pytest
from bokeh.core.properties import DashPattern

from protheon_dask.model import STAGES, Outcome, RunState, TaskState
from protheon_dask.telemetry import palette
from protheon_dask.telemetry.palette import GROUPS, THEMES, Look, Theme
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, Flow

TEXT_CONTRAST: Final = 4.5  # WCAG 2.2, 1.4.3, level AA
GRAPHIC_CONTRAST: Final = 3.0  # WCAG 2.2, 1.4.11
TEXTS: Final = ("text", "muted", "link", "good", "warning", "bad")

Rgb = tuple[float, float, float]
Matrix = tuple[Rgb, Rgb, Rgb]

SIGHTS: Final[dict[str, Matrix]] = {  # Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
LEAST_DISTANCE: Final = {"full": 8.0, "protanopia": 5.0, "deuteranopia": 5.0, "tritanopia": 5.0}  # 100 x OKLab; just noticed: about 2


def linear(color: str) -> Rgb:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def times(matrix: Matrix, vector: Rgb) -> Rgb:
    first, second, third = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return first, second, third


def contrast(one: str, other: str) -> float:
    """WCAG's ratio, from 1 to 21."""
    low, high = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in (linear(one), linear(other)))
    return (high + 0.05) / (low + 0.05)


def seen(color: str, sight: str) -> Rgb:
    """OKLab of a colour as it is seen (Ottosson 2020)."""
    rgb: Sequence[float] = [min(1.0, max(0.0, part)) for part in times(SIGHTS[sight], linear(color))]
    cones = times(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        (rgb[0], rgb[1], rgb[2]),
    )
    long, middle, short = (cone ** (1 / 3) for cone in cones)
    return times(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        (long, middle, short),
    )


def distance(one: str, other: str, sight: str) -> float:
    pairs = zip(seen(one, sight), seen(other, sight), strict=True)
    return 100 * float(sum((a - b) ** 2 for a, b in pairs) ** 0.5)


def test_the_ruler_is_right() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the known near miss
    assert distance("#ff0000", "#ff0000", "full") == 0
    assert distance("#c02020", "#4f6b10", "deuteranopia") < distance("#c02020", "#4f6b10", "full") / 2, "red and green draw near"


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_text_is_readable_on_both_backgrounds(theme: Theme) -> None:
    poor = {
        f"{name} on {below}": ratio
        for name in TEXTS
        for below in ("background", "panel")
        if (ratio := contrast(getattr(theme, name), getattr(theme, below))) < TEXT_CONTRAST
    }
    assert not poor


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_names_of_states_are_as_readable_as_text(theme: Theme) -> None:
    colors = {state: look.color(theme) for state, look in palette.RUN_STATES.items()}
    poor = {s: c for s, c in colors.items() for below in (theme.background, theme.panel) if contrast(c, below) < TEXT_CONTRAST}
    assert not poor


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("group", GROUPS)
def test_what_is_drawn_stands_out_from_both_backgrounds(group: str, theme: Theme) -> None:
    ratios = {
        f"{name} on {below}": contrast(look.color(theme), getattr(theme, below))
        for name, look in GROUPS[group].items()
        for below in ("background", "panel")
    }
    assert not {name: ratio for name, ratio in ratios.items() if ratio < GRAPHIC_CONTRAST}


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_a_progress_bar_shows_what_is_committed(theme: Theme) -> None:
    assert contrast(theme.committed, theme.faint) >= GRAPHIC_CONTRAST, "solid against the rest"
    for part in (theme.committed, theme.in_flight):
        assert contrast(part, theme.background) >= GRAPHIC_CONTRAST
        assert contrast(part, theme.panel) >= GRAPHIC_CONTRAST


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_of_a_group_lie_apart_however_they_are_seen(sight: str, group: str, theme: Theme) -> None:
    near = {
        f"{one.label} and {other.label}": round(apart, 1)
        for one, other in combinations(GROUPS[group].values(), 2)
        if (apart := distance(one.color(theme), other.color(theme), sight)) < LEAST_DISTANCE[sight]
    }
    assert not near


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("mark", [field.name for field in fields(Look) if field.name not in ("light", "dark")])
def test_nothing_is_told_apart_by_colour_alone(mark: str, group: str) -> None:
    marks = [getattr(look, mark) for look in GROUPS[group].values()]
    assert len(set(marks)) == len(marks)
    assert all(marks)


def test_bokeh_knows_every_mark() -> None:
    looks = [look for group in GROUPS.values() for look in group.values()]
    assert {look.hatch for look in looks} <= set(bokeh_enums.HatchPattern)
    assert {look.marker for look in looks} <= set(bokeh_enums.MarkerType)
    assert all(DashPattern().is_valid(look.dash) for look in looks)
    assert all(len(look.symbol) == 1 for look in looks)


def test_everything_that_is_drawn_has_its_look() -> None:
    assert tuple(palette.STAGES) == STAGES
    assert set(palette.RUN_STATES) == set(RunState)
    assert set(palette.TASK_STATES) == set(TaskState)
    assert set(palette.OUTCOMES) == set(Outcome)
    assert set(palette.WORKERS) == {IDLE, BUSY, LOST}
    assert set(palette.FLOWS) == {field.name for field in fields(Flow)}


def test_css_names_each_colour_of_a_theme_once() -> None:
    for theme in THEMES:
        declared = [part.partition(":")[0] for part in palette.css_variables(theme).split(";") if part]
        assert len(set(declared)) == len(declared)
        assert f"--p-state-paused:{palette.RUN_STATES['paused'].color(theme)};" in palette.css_variables(theme)
    one, other = (sorted(palette.css_variables(theme).split(";")) for theme in THEMES)
    assert [a.partition(":")[0] for a in one] == [b.partition(":")[0] for b in other], "no variable is left over from the other theme"


def test_neighbouring_stages_are_far_apart() -> None:
    """Where the time goes is stacked in this order."""
    for theme in THEMES:
        for one, other in pairwise(palette.STAGES.values()):
            assert distance(one.color(theme), other.color(theme), "full") >= 1.5 * LEAST_DISTANCE["full"], (one.label, other.label)
