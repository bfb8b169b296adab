"""How often a live card is drawn: twice a second while somebody works in the notebook, seldom while nobody does."""

from __future__ import annotations

from protheon_dask.run.live import DRAW_S, DRAWINGS, pause_s
from protheon_dask.telemetry.card import run_html, run_text
from tests.fixtures.cards import LINK, RATES, scene

DAY_S = 86_400.0


def n_drawings(seconds: float) -> int:
    at_s, n = 0.0, 0
    while at_s < seconds:
        at_s += pause_s(at_s)
        n += 1
    return n


def test_it_is_drawn_twice_a_second_while_cells_are_run() -> None:
    assert pause_s(0.0) == pause_s(DRAW_S * DRAWINGS) == DRAW_S == 0.5


def test_a_notebook_that_was_left_alone_for_a_week_is_sent_megabytes() -> None:
    """A server keeps for a page that is away all that it missed."""
    card_bytes = max(len((run_html(s, RATES, LINK) + run_text(s, RATES)).encode()) for s in map(scene, ("running", "a million chunks")))
    assert n_drawings(7 * DAY_S) < 2_500
    assert n_drawings(7 * DAY_S) * card_bytes < 20e6
    assert pause_s(8 * 3600) < 150, "and who comes back after a night without running a cell waits two minutes at most"
