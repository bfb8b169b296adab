"""Progress is text from statistics: rates over the last seconds, a bar, what is waited for."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from protheon_dask.cli.display import LiveDisplay
from protheon_dask.cli.progress import bar, picture, plain_line
from protheon_dask.model import RunState, TableCount
from protheon_dask.telemetry.pace import Pace, Rates
from protheon_dask.telemetry.told import in_flight_fraction, pack, waits_for, what
from tests.unit.cli.pictures import MIDDLE, picture_of

LATER: dict[str, Any] = {
    "chunks_running": 0,
    "chunks_later": 7,
    "next_try_s": 12.3,
    "last_error": "MemoryError",
    "last_message": "no room\nfor it",
}


def at_lines(lines: int, **changes: Any) -> Any:
    return picture_of(lines=lines, raw_bytes=lines * 1_000, rows=(TableCount("t", lines * 10, lines * 10, 0, 0),), **changes)


def test_rates_are_those_of_the_last_seconds_and_not_of_the_whole_run() -> None:
    pace = Pace()
    for second in range(60):
        pace.add(at_lines(second * 10), float(second))
    for second in range(60, 80):
        pace.add(at_lines(600 + (second - 60) * 100), float(second))
    rates = pace.rates(79.0)
    assert rates.lines_per_s == pytest.approx(100, rel=0.15)
    assert rates.raw_mb_per_s == pytest.approx(rates.lines_per_s * 1_000 / 1e6)
    assert rates.rows_per_s == pytest.approx(rates.lines_per_s * 10)


def test_the_time_left_is_what_is_left_at_the_present_rate() -> None:
    pace = Pace()
    for second in range(11):
        pace.add(at_lines(second * 1_000), float(second))
    eta_s = pace.rates(10.0).eta_s
    assert eta_s is not None
    assert eta_s == pytest.approx(10.0, abs=1.0)


def test_a_rate_sinks_while_nothing_is_committed() -> None:
    pace = Pace()
    for second in range(11):
        pace.add(at_lines(second * 1_000), float(second))
    assert pace.rates(100.0).lines_per_s < pace.rates(12.0).lines_per_s / 5
    assert pace.rates(11.0).lines_per_s == pytest.approx(pace.rates(10.0).lines_per_s)  # the next commit is not overdue yet


def test_there_is_no_time_left_to_be_told_while_chunks_that_failed_wait_for_their_next_try() -> None:
    pace = Pace()
    for second in range(11):
        pace.add(at_lines(second * 1_000), float(second))
    pace.add(at_lines(10_000, **LATER), 10.5)
    assert pace.rates(11.0).eta_s is None
    pace.add(at_lines(10_000), 11.5)
    assert pace.rates(11.5).eta_s is not None


def test_files_that_were_loaded_before_make_no_rate() -> None:
    pace = Pace()
    pace.add(at_lines(0, files=0), 0.0)
    pace.add(at_lines(1_000_000, files=2, skipped_files=1), 1.0)
    assert pace.rates(2.0) == Rates()


def test_chunks_that_take_longer_than_the_window_still_give_a_rate() -> None:
    pace = Pace()
    for step in range(6):
        pace.add(at_lines(step * 50_000, estimated_lines=1_000_000), step * 25.0)
    assert pace.rates(140.0).lines_per_s == pytest.approx(2_000, rel=0.01)


def test_an_ended_run_has_no_time_left() -> None:
    pace = Pace()
    pace.add(at_lines(0), 0.0)
    pace.add(at_lines(20_000, state=RunState.SUCCEEDED), 4.0)
    assert pace.rates(4.0).eta_s is None


@given(
    lines=st.integers(0, 20_000),
    running=st.integers(0, 9),
    done=st.integers(0, 16),
    split_done=st.booleans(),
    width=st.integers(1, 200),
    plain=st.booleans(),
)
def test_the_bar_is_as_wide_as_was_asked(lines: int, running: int, done: int, split_done: bool, width: int, plain: bool) -> None:
    s = picture_of(lines=lines, chunks_running=running, chunks_done=done, split_done=split_done)
    assert bar(s, width, plain=plain).cell_len == width
    assert 0.0 <= in_flight_fraction(s) <= 1.0 - s.fraction


def test_the_bar_tells_committed_from_in_flight_without_colour() -> None:
    text = bar(MIDDLE, 40).plain
    assert text == "━" * 17 + "╍" * 5 + "─" * 18
    assert bar(MIDDLE, 40, plain=True).plain == "#" * 17 + "+" * 5 + "." * 18


@given(width=st.integers(16, 160), wait=st.sampled_from([None, "the reject limit of 50 % is crossed: look at `protheon rejects`"]))
def test_no_line_of_the_picture_is_wider_than_the_terminal(width: int, wait: str | None) -> None:
    s = picture_of(reason=wait, rejected_parts=12, dead_letters=3, files=12, skipped_files=4)
    lines = picture(s, Rates(3_210.4, 21.4, 91_200.0, 7.2), width).split("\n")
    assert max(line.cell_len for line in lines) <= width


def test_the_picture_says_what_the_contract_asks_for() -> None:
    text = picture(MIDDLE, Rates(3_210.4, 21.4, 91_200.0, 7.2), 120).plain
    for part in (
        "run 3",
        "pgcr",
        "reports.jsonl.zst",
        "43 %",
        "chunks 7 of 16, 2 in flight",
        "lines 8,750 of 20,000",
        "3,210 lines/s",
        "21.4 MB/s",
        "91,200 rows/s",
        "ETA 7.2 s",
        "2 rejects",
        "1 retry",
    ):
        assert part in text


def test_a_plain_line_is_one_line_with_the_same_facts() -> None:
    line = plain_line(picture_of(files=3, files_done=1, skipped_files=1, split_done=False), Rates(3_210.4, 21.4, 91_200.0, 65.0))
    assert line == (
        "run 3; running; 43 %; files 1 of 3, 1 skipped; chunks 7 of ~16, 2 in flight; lines 8,750 of ~20,000; "
        "3,210 lines/s; 21.4 MB/s; 91,200 rows/s; ETA 1 min 05 s; 2 rejects; 1 retry"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"state": RunState.SUCCEEDED, "chunks_running": 0}, None),
        ({"state": RunState.QUEUED, "files": 0, "chunks_running": 0}, "waiting for the sources to be identified"),
        ({"state": RunState.PAUSED, "reason": "PostgreSQL is away since 12:00:00Z"}, "PostgreSQL is away since 12:00:00Z"),
        ({"chunks_running": 0}, "waiting for a worker to take a chunk"),
        ({**LATER, "chunks_later": 6}, "waiting for a worker to take a chunk"),
        (LATER, "7 chunks failed and are tried again, the next in 12 s (MemoryError: no room for it)"),
        ({**LATER, "chunks_ready": 1, "chunks_later": 1}, "1 chunk failed and is tried again, in 12 s (MemoryError: no room for it)"),
        ({**LATER, "chunks_running": 1}, None),
        ({"chunks_running": 0, "behind": (4,), "chunks_before": 9}, "behind run 4: 9 chunks before its own"),
        ({"chunks_running": 0, "behind": (4, 6), "chunks_before": 1_000}, "behind run 4, 6: 1,000 chunks or more before its own"),
        ({"behind": (4,), "chunks_before": 9}, None),
        ({"chunks_running": 0, "chunks_ready": 0, "chunks": 0, "split_done": False}, "waiting for the first chunks to be cut"),
        ({"chunks_running": 0, "chunks_ready": 0, "split_done": False}, "waiting for more chunks to be cut"),
        ({"chunks_running": 0, "chunks_ready": 0}, "finishing: indexes and statistics"),
        (
            {"chunks_running": 0, "chunks_ready": 3, "attached_files": 1},
            "waiting for another run that loads the same files",
        ),
    ],
)
def test_what_a_run_waits_for_is_in_words(changes: dict[str, Any], words: str | None) -> None:
    assert waits_for(picture_of(**changes)) == words


def test_many_paths_are_named_by_the_first() -> None:
    assert what(picture_of(paths=("/a/x.jsonl", "/a/y.jsonl", "/a/z.jsonl"))) == "run 3  ·  pgcr  ·  x.jsonl and 2 more"


def test_parts_go_side_by_side_as_far_as_they_fit() -> None:
    assert pack(["aaaa", "bbbb", "cccc"], 11, " | ") == ["aaaa | bbbb", "cccc"]
    assert pack(["abcdefgh"], 5) == ["abcd…"]
    assert pack([], 5) == []


def test_once_a_display_has_settled_nothing_turns_below_what_is_told() -> None:
    screen = io.StringIO()
    with LiveDisplay(Console(file=screen, force_terminal=True, width=80)) as live:
        live.event("first")
        live.settle()
        while_waiting = screen.getvalue()
        live.event("the master is ready")
        after = screen.getvalue()[len(while_waiting) :]
    assert "starting" in while_waiting
    assert "the master is ready" in after
    assert "starting" not in after
