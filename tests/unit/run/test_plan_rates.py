"""How long a plan says that a load takes: by a run that was, and by a sample that was measured."""

from __future__ import annotations

import pytest

from protheon_dask.ledger.past import HostRate, PastRate
from protheon_dask.model import STAGES
from protheon_dask.run.plan import rate_of_run, rate_of_sample
from protheon_dask.run.speeds import by_run, by_sample

NOTHING = dict.fromkeys(STAGES, 0.0)


def past(seconds: float, n_workers: int, **stages: float) -> PastRate:
    return PastRate(7, n_workers, 100_000, 700_000_000, seconds, {**NOTHING, **stages})


def test_the_same_workers_go_as_fast_as_they_went() -> None:
    rate = rate_of_run(past(10.0, 2, transform=12.0, copy=8.0), 2)
    assert rate.raw_bytes_per_s == pytest.approx(70_000_000)
    assert rate.source == "run 7: 10,000 lines/s with 2 workers"
    assert rate.bound is not None
    assert not rate.is_least


def test_more_workers_go_faster_where_each_has_its_own_work() -> None:
    run = past(10.0, 2, transform=20.0)
    assert rate_of_run(run, 4).raw_bytes_per_s == pytest.approx(140_000_000, rel=0.01)
    assert rate_of_run(run, 1).raw_bytes_per_s == pytest.approx(35_000_000, rel=0.01)


def test_more_workers_add_little_where_the_database_is_full() -> None:
    run = past(10.0, 8, copy=78.0, transform=2.0)
    assert rate_of_run(run, 16).raw_bytes_per_s < 1.1 * 70_000_000
    assert "COPY on the database" in (rate_of_run(run, 16).bound or "")


def test_more_workers_add_nothing_where_cutting_did_not_keep_up() -> None:
    run = past(10.0, 4, transform=10.0)
    rate = rate_of_run(run, 8)
    assert rate.raw_bytes_per_s == pytest.approx(70_000_000)
    assert rate.bound == "bound by cutting: workers wait 75 % of the time"
    assert rate_of_run(run, 2).raw_bytes_per_s < 70_000_000


def test_a_sample_is_as_fast_as_its_slowest_part() -> None:
    work = {"decompress": 0.2, "transform": 0.8}
    workers = rate_of_sample(work, 0.1, 1_000_000, n_workers=2, n_cores=0, n_splitters=1, scale=60)
    assert workers.raw_bytes_per_s == pytest.approx(2_000_000)
    assert "transform" in (workers.bound or "")
    cutting = rate_of_sample(work, 4.0, 1_000_000, n_workers=2, n_cores=0, n_splitters=2, scale=60)
    assert cutting.raw_bytes_per_s == pytest.approx(500_000)
    assert "bound by cutting" in (cutting.bound or "")
    shared = rate_of_sample(work, 1.0, 1_000_000, n_workers=2, n_cores=2, n_splitters=1, scale=60)
    assert shared.raw_bytes_per_s == pytest.approx(1_000_000), "cutting takes half of the cores"
    assert all(rate.is_least for rate in (workers, cutting, shared))


UNEQUAL = (HostRate("nuc", 2, 100, 10.0), HostRate("pc", 2, 600, 20.0))  # 10 and 30 a second: 20 in the mean


def test_each_host_counts_as_quick_as_it_was_in_the_run() -> None:
    assert by_run(7, UNEQUAL, {"nuc": 2, "pc": 2}, {}).equivalents == pytest.approx(4)
    only_slow = by_run(7, UNEQUAL, {"nuc": 2}, {})
    assert only_slow.equivalents == pytest.approx(1)
    assert [(host.host, host.raw_bytes_per_s, host.known_by) for host in only_slow.hosts] == [("nuc", 10.0, "run 7")]
    run = past(10.0, 4, transform=40.0)
    assert rate_of_run(run, 2, only_slow).raw_bytes_per_s == pytest.approx(70_000_000 / 4, rel=0.01), "a fourth: not half of it"
    half = by_run(7, UNEQUAL, {"nuc": 1}, {})
    assert rate_of_run(run, 1, half).raw_bytes_per_s == pytest.approx(70_000_000 / 8, rel=0.01)


def test_a_host_that_had_no_part_is_guessed_and_named_unless_it_is_measured() -> None:
    guessed = by_run(7, UNEQUAL, {"pc": 2, "mac": 2}, {})
    assert (guessed.equivalents, guessed.guessed, guessed.guessed_as) == (pytest.approx(5), ("mac",), "the mean of run 7")
    measured = by_run(7, UNEQUAL, {"pc": 2, "mac": 2}, {"pc": 1.5, "mac": 3.0})
    assert (measured.equivalents, measured.guessed) == (pytest.approx(9), ()), "twice as quick as the pc, whose 30 are known"
    nothing = by_run(7, (), {"mac": 3}, {"mac": 2.0})
    assert (nothing.equivalents, nothing.hosts) == (3, ())


def test_of_a_sample_others_are_taken_for_this_machine_or_as_they_were_measured() -> None:
    guessed = by_sample("nuc", 100.0, {"nuc": 2, "pc": 2}, {})
    assert (guessed.equivalents, guessed.guessed, guessed.guessed_as) == (pytest.approx(4), ("pc",), "this machine")
    measured = by_sample("nuc", 100.0, {"nuc": 2, "pc": 2}, {"nuc": 0.5, "pc": 4.0})
    assert (measured.equivalents, measured.guessed) == (pytest.approx(9), ())
    work = {"decompress": 0.2, "transform": 0.8}
    rate = rate_of_sample(work, 0.01, 1_000_000, n_workers=4, n_cores=0, n_splitters=1, scale=60, speeds=measured)
    assert rate.raw_bytes_per_s == pytest.approx(9_000_000)
