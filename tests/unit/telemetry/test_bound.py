"""What bounds a run: the model's numbers make sense whatever was measured, and the line names what a person would."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.model import STAGES
from protheon_dask.telemetry.bound import CPU, DATABASE, KINDS, LEAST_S, LINK, WAIT, WORDS, _Cycle, bound_of, find_bound

SECONDS = st.fixed_dictionaries({stage: st.floats(0, 1e6, allow_nan=False) for stage in STAGES})
WORKERS = st.integers(1, 2_000)
CORES = st.none() | st.integers(1, 512)


def test_every_stage_is_of_one_kind_and_has_words() -> None:
    assert sorted(stage for stages in KINDS.values() for stage in stages) == sorted(STAGES)
    assert set(WORDS) == set(STAGES)


@given(SECONDS, WORKERS, CORES)
def test_another_worker_adds_no_less_than_nothing_and_no_more_than_its_share(
    seconds: dict[str, float], n_workers: int, n_cores: int | None
) -> None:
    found = find_bound(seconds, n_workers, n_cores)
    if found is None:
        assert sum(seconds.values()) < LEAST_S
        return
    assert 0 <= found.gain <= 1 / n_workers + 1e-4
    assert seconds[found.stage] > 0


@given(SECONDS, WORKERS, CORES, st.floats(0, 1), st.none() | st.integers(0, 10_000), st.booleans())
def test_the_line_has_percents_within_0_and_100(
    seconds: dict[str, float], n_workers: int, n_cores: int | None, utilization: float, n_ready: int | None, is_cutting: bool
) -> None:
    told = bound_of(seconds, n_workers, n_cores=n_cores, utilization=utilization, n_ready=n_ready, is_cutting=is_cutting)
    if told is None:
        assert sum(seconds.values()) < LEAST_S
        return
    [percent] = re.findall(r"(\d+) %", told)
    assert told.startswith("bound by ")
    assert 0 <= int(percent) <= 100


@given(st.floats(0.01, 0.98), st.floats(0.001, 0.5), WORKERS)
def test_the_more_of_the_time_goes_to_the_database_the_less_another_worker_adds(share: float, more: float, n_workers: int) -> None:
    more = min(more, 0.99 - share)
    less = find_bound({"copy": 100 * share, "transform": 100 * (1 - share)}, n_workers)
    fuller = find_bound({"copy": 100 * (share + more), "transform": 100 * (1 - share - more)}, n_workers)
    assert less is not None
    assert fuller is not None
    assert fuller.gain <= less.gain + 1e-4


@given(SECONDS, WORKERS, st.integers(1, 64))
def test_cores_that_are_all_taken_make_another_worker_worth_less(seconds: dict[str, float], n_workers: int, n_cores: int) -> None:
    free, taken = find_bound(seconds, n_workers), find_bound(seconds, n_workers, n_cores)
    if free is None or taken is None:
        assert free is taken
    elif n_workers < n_cores:
        assert taken == free
    else:
        assert taken.gain <= free.gain + 1e-4


@given(st.floats(0.05, 0.95), WORKERS)
def test_the_demands_that_are_found_give_the_throughput_that_was_seen(share: float, n_workers: int) -> None:
    """One worker more than n - 1 is n: the model's prediction from there is what it says of here."""
    demand = share / (1 + (n_workers - 1) * share)
    cycle = _Cycle({CPU: 1 - share, WAIT: 0.0, DATABASE: demand, LINK: 0.0}, None)
    assert cycle.throughput(n_workers) == pytest.approx(n_workers, rel=1e-3)


@pytest.mark.parametrize(
    ("seconds", "n_workers", "n_cores", "told"),
    [
        ({"transform": 9, "copy": 1}, 1, 8, "bound by the workers' CPU (transform); another worker adds 98 %"),
        ({"transform": 9, "copy": 1}, 2, 2, "bound by the workers' CPU (transform); another worker adds 3 %"),
        ({"decompress": 1, "transform": 3, "copy": 4}, 8, None, "bound by COPY on the database; another worker adds 3 %"),
        ({"copy": 99, "transform": 1}, 500, None, "bound by COPY on the database; another worker adds 0 %"),
        ({"fetch": 30, "transform": 3, "copy": 3}, 8, None, "bound by fetching chunks from the master; another worker adds 1 %"),
        ({"merge": 5, "copy": 4, "transform": 3}, 8, None, "bound by merging into shared tables on the database; another worker adds 1 %"),
        ({"transform": 0.5}, 2, 2, None),
        ({}, 2, 2, None),
        ({"transform": 9}, 0, None, None),
    ],
)
def test_the_line_names_what_would_help_most(seconds: dict[str, float], n_workers: int, n_cores: int | None, told: str | None) -> None:
    assert bound_of(seconds, n_workers, n_cores=n_cores) == told


@pytest.mark.parametrize(
    ("utilization", "n_ready", "is_cutting", "told"),
    [
        (0.6, 0, True, "bound by cutting: workers wait 40 % of the time"),
        (0.6, None, True, "bound by cutting: workers wait 40 % of the time"),
        (0.25, 1, False, "bound by what there is to do: workers wait 75 % of the time"),
        (0.5, 1_200, True, "bound by handing out: 1,200 chunks are ready, and workers wait 50 % of the time"),
        (0.95, 0, True, "bound by the workers' CPU (transform); another worker adds 25 %"),
        (None, 0, True, "bound by the workers' CPU (transform); another worker adds 25 %"),
    ],
)
def test_workers_that_have_nothing_to_do_say_why(utilization: float | None, n_ready: int | None, is_cutting: bool, told: str) -> None:
    assert bound_of({"transform": 10}, 4, utilization=utilization, n_ready=n_ready, is_cutting=is_cutting) == told
