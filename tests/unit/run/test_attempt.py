"""An attempt as its process knows it: what is progress, what is a stall, and what losing it means."""

from __future__ import annotations

import pickle
import threading

import pytest

from protheon_dask.errors import LeaseLost
from protheon_dask.model import Lease
from protheon_dask.run.ingest import RejectLimitCrossed
from protheon_dask.run.keeper import Attempt

LEASE = Lease(7, 3, 60.0)


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempt(clock: Clock) -> Attempt:
    return Attempt(LEASE, clock)


def test_silence_beyond_stall_s_is_a_stall(attempt: Attempt, clock: Clock) -> None:
    clock.now_s += 120.0
    assert not attempt.is_stalled(120.0)
    clock.now_s += 0.1
    assert attempt.is_stalled(120.0)


def test_a_byte_is_progress(attempt: Attempt, clock: Clock) -> None:
    clock.now_s += 100.0
    attempt.progress(1)
    clock.now_s += 100.0
    assert not attempt.is_stalled(120.0)


def test_a_statement_in_flight_never_stalls_and_its_end_is_progress(attempt: Attempt, clock: Clock) -> None:
    with attempt.in_flight():
        clock.now_s += 100_000.0
        assert not attempt.is_stalled(120.0)
        with attempt.in_flight():
            pass
        clock.now_s += 200.0
        assert not attempt.is_stalled(120.0)  # the outer one is still at the server
    assert not attempt.is_stalled(120.0)
    clock.now_s += 121.0
    assert attempt.is_stalled(120.0)


def test_a_statement_that_failed_is_no_longer_in_flight(attempt: Attempt, clock: Clock) -> None:
    with pytest.raises(ValueError, match="no"), attempt.in_flight():
        raise ValueError("no")
    clock.now_s += 121.0
    assert attempt.is_stalled(120.0)


def test_a_lost_attempt_says_so_at_the_next_check(attempt: Attempt) -> None:
    attempt.check()
    attempt.lose()
    assert attempt.is_lost
    with pytest.raises(LeaseLost) as caught:
        attempt.check()
    assert (caught.value.task_id, caught.value.attempt_no) == (7, 3)


def test_losing_it_wakes_who_waits(attempt: Attempt) -> None:
    raised = []

    def wait() -> None:
        try:
            attempt.wait(3_600.0)
        except LeaseLost as exc:
            raised.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    attempt.lose()
    thread.join(10)
    assert len(raised) == 1


def test_a_crossed_limit_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RejectLimitCrossed("7 of 10")))
    assert (str(error), type(error)) == ("7 of 10", RejectLimitCrossed)
