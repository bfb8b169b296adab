"""How long a plan says that a load takes: by a run that was, and by a sample that was measured."""

from __future__ import annotations

import pytest

from protheon_dask.ledger.past import PastRate
from protheon_dask.model import STAGES
from protheon_dask.run.plan import rate_of_run, rate_of_sample

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
