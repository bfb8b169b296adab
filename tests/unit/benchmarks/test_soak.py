"""The judge of a soak: what grows is told by its factor, what does not is 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.soak import GOAL_CPU, TENTHS, Reading, goals_of, tenths_of

N_CHUNKS = 1_000
STEP = 10


def readings(cpu_of: Callable[[int], float], memory_of: Callable[[int], int]) -> list[Reading]:
    """One each STEP chunks. cpu_of: milliseconds of the broker for the chunk of a number; the scheduler takes 2, whichever it is."""
    made, broker_s = [Reading(0, 0.0, 0.0, 0.0, 0.0, memory_of(0), 100)], 0.0
    for n in range(STEP, N_CHUNKS + 1, STEP):
        broker_s += sum(cpu_of(chunk) / 1000 for chunk in range(n - STEP, n))
        made.append(Reading(n, n / 50, broker_s, n * 0.002, n * 0.001, memory_of(n), 100))
    return made


def test_a_steady_run_grows_by_nothing() -> None:
    tenths = tenths_of(readings(lambda _: 4.0, lambda _: 200), N_CHUNKS)
    assert [tenth.n_chunks for tenth in tenths] == list(range(100, N_CHUNKS + 1, N_CHUNKS // TENTHS))
    assert goals_of(tenths) == pytest.approx({"cpu": 1.0, "broker_memory": 1.0, "scheduler_memory": 1.0})
    assert tenths[-1].rate == pytest.approx(50)


def test_a_broker_whose_work_grows_with_the_chunks_that_are_done_misses_the_goal() -> None:
    grown = goals_of(tenths_of(readings(lambda n: 4.0 + n / 200, lambda n: 200 + n), N_CHUNKS))
    assert grown["cpu"] == pytest.approx((8.75 + 2) / (4.25 + 2), rel=0.1)
    assert grown["cpu"] > GOAL_CPU
    assert grown["broker_memory"] == pytest.approx(1200 / 400)


def test_one_window_of_a_tenth_that_another_program_disturbed_is_no_growth() -> None:
    grown = goals_of(tenths_of(readings(lambda n: 400.0 if 940 <= n < 950 else 4.0, lambda _: 200), N_CHUNKS))
    assert grown["cpu"] == pytest.approx(1.0)
