"""What more or fewer workers would do, by what some did."""

from __future__ import annotations

import pytest

from protheon_dask.telemetry.bound import find_bound, speedup


def test_as_many_do_as_much_and_nothing_known_is_no_speedup() -> None:
    assert speedup({"transform": 30.0, "copy": 10.0}, 4, 4) == 1.0
    assert speedup({"transform": 0.5}, 4, 8) == 1.0
    assert speedup({"transform": 30.0}, 4, 0) == 1.0


def test_workers_with_their_own_cores_add_up_and_those_without_do_not() -> None:
    assert speedup({"transform": 30.0}, 2, 6) == pytest.approx(3.0)
    assert speedup({"transform": 30.0}, 2, 6, n_cores=2) == pytest.approx(1.0)


def test_one_more_is_the_gain_that_the_bound_tells() -> None:
    stages = {"fetch": 4.0, "transform": 30.0, "copy": 25.0, "commit": 2.0}
    found = find_bound(stages, 3)
    assert found is not None
    assert speedup(stages, 3, 4) == pytest.approx(1 + found.gain)
    assert 1.0 < speedup(stages, 3, 4) < 4 / 3
