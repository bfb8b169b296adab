"""Rates over a sliding window of totals that come in the steps of whole chunks."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from protheon_dask.telemetry.flow import FlowWindow
from protheon_dask.telemetry.picture import Flow, Totals


def totals(lines: int, *, running: int = 1) -> Totals:
    return Totals(lines=lines, rows=2 * lines, raw_bytes=100 * lines, wire_bytes=10 * lines, tasks_running=running)


def test_steady_steps_give_a_steady_rate_also_between_two_commits() -> None:
    window = FlowWindow()
    for second in range(61):
        window.add(totals(second // 5 * 5_000), float(second))
        if second >= 25:
            assert window.flow(second + 0.9).lines_per_s == pytest.approx(1_000, rel=0.05)
    assert astuple(window.flow(60.0)) == pytest.approx((1_000, 2_000, 100_000, 10_000), rel=0.05)


def test_the_first_chunk_of_a_long_one_counts_all_the_time_that_it_took() -> None:
    window = FlowWindow()
    window.add(totals(0, running=0), 0.0)
    for second in range(1, 41):
        window.add(totals(0), float(second))
    window.add(totals(40_000), 41.0)
    assert window.flow(41.0).lines_per_s == pytest.approx(1_000, rel=0.01)


def test_a_rate_sinks_while_a_commit_is_overdue() -> None:
    window = FlowWindow()
    for second in range(11):
        window.add(totals(second * 1_000), float(second))
    rates = [window.flow(second).lines_per_s for second in (10.5, 15.0, 30.0, 100.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1_000)
    assert rates[-1] < 120


def test_ten_seconds_after_the_last_task_nothing_flows_and_the_next_run_begins_anew() -> None:
    window = FlowWindow()
    for second in range(11):
        window.add(totals(second * 1_000), float(second))
    window.add(totals(10_000, running=0), 11.0)
    assert window.flow(12.0).lines_per_s > 0
    assert window.flow(22.0) == Flow()
    for second in range(12, 600):
        window.add(totals(10_000, running=0), float(second))
    for second in range(600, 605):
        window.add(totals(10_000 + (second - 600) * 500), float(second))
    assert window.flow(604.0).lines_per_s == pytest.approx(500, rel=0.01)


def test_totals_that_fall_are_another_ledgers() -> None:
    window = FlowWindow()
    for second in range(5):
        window.add(totals(10**9 + second * 1_000), float(second))
    window.add(totals(0), 5.0)
    assert window.flow(5.0) == Flow()
    window.add(totals(100), 6.0)
    assert window.flow(6.0).lines_per_s == pytest.approx(100)
