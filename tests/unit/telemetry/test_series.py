"""What the scheduler keeps of the pictures: bounded, and nothing in it runs backwards."""

from __future__ import annotations

import math
from dataclasses import replace

from protheon_dask.telemetry.series import KEPT, Series
from tests.fixtures import scenes


def test_a_fresh_series_knows_nothing() -> None:
    series = Series()
    assert (list(series), series.silent_s(5.0), series.fraction(3), series.rates(3, 5.0).lines_per_s) == ([], None, 0.0, 0.0)


def test_it_keeps_the_newest_samples_and_no_more() -> None:
    series = Series()
    for no in range(KEPT + 50):
        series.add(scenes.at_work(float(no)), float(no))
    assert len(series) == KEPT
    assert [sample.at for sample in series][-1] == scenes.BEGIN_AT + KEPT + 49


def test_since_brings_what_is_newer_in_its_order() -> None:
    series = Series()
    for no in range(10):
        series.add(scenes.at_work(float(no)), float(no))
    assert [sample.at - scenes.BEGIN_AT for sample in series.since(scenes.BEGIN_AT + 6)] == [7.0, 8.0, 9.0]
    assert series.since(scenes.BEGIN_AT + 9) == []


def test_a_picture_that_comes_late_is_heard_and_not_drawn() -> None:
    series = Series()
    series.add(scenes.at_work(5.0), 100.0)
    series.add(scenes.at_work(4.0), 109.0)
    assert len(series) == 1
    assert series.silent_s(110.0) == 1.0


def test_an_estimate_that_grows_takes_no_bar_back() -> None:
    series, picture = Series(), scenes.at_work(0.0)
    series.add(replace(picture, runs=(scenes.run_of(lines=50, estimated_lines=100),)), 0.0)
    series.add(replace(picture, at=picture.at + 1, runs=(scenes.run_of(lines=60, estimated_lines=1_000),)), 1.0)
    assert series.fraction(3) == 0.5


def test_rates_are_those_of_the_pictures_and_sink_while_none_comes() -> None:
    series = Series()
    for no in range(20):
        series.add(scenes.at_work(float(no)), 0.25 * no)  # they came four times as fast as they were taken
    assert math.isclose(series.rates(3, 4.75).lines_per_s, 21_000)
    assert series.rates(3, 64.75).lines_per_s < 21_000 / 3


def test_runs_that_left_the_picture_are_forgotten() -> None:
    series, picture = Series(), scenes.at_work(0.0)
    series.add(picture, 0.0)
    series.add(replace(picture, at=picture.at + 1, runs=()), 1.0)
    assert series.fraction(3) == 0.0
