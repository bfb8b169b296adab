"""What a fetch takes is the link's; what it waits for a broker that is away is charged apart, and is no stall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings
from protheon_dask.model import Lease, StageClock
from protheon_dask.run import ingest
from protheon_dask.run.keeper import Attempt


class Clock:
    """Time moves where the test's broker and its waits move it."""

    now_s = 50.0

    def perf_counter(self) -> float:
        return self.now_s


class Waiting(Attempt):
    """An attempt that waits on the test's clock."""

    clock: Clock

    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.check()


class SlowBroker:
    """Receives for 2 s, breaks, is away for 7 s, and gives the rest in 1 s."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def fetch_chunk(self, _wanted: object, _sink: object, *, wait: Callable[[float], object], **_: Any) -> int:
        self.clock.now_s += 2.0
        for delay_s in (3.0, 4.0):
            wait(delay_s)
        self.clock.now_s += 1.0
        return 600


@dataclass
class Fetching:
    """A fetch from the slow broker on a clock of the test's."""

    clock: Clock
    attempt: Waiting
    stages: StageClock

    def fetch(self) -> None:
        work = SimpleNamespace(
            chunk=SimpleNamespace(generation=1, stored_bytes=500, stored_xxh3=b"s" * 16),
            claimed=SimpleNamespace(lease=self.attempt.lease),
            settings=Settings(),
            clock=self.stages,
            attempt=self.attempt,
        )
        with ingest.fetch(cast("ingest.ChunkWork", work), cast("BrokerClient", SlowBroker(self.clock))):
            pass


@pytest.fixture
def fetching(monkeypatch: pytest.MonkeyPatch) -> Fetching:
    clock = Clock()
    monkeypatch.setattr(ingest, "time", clock)
    attempt = Waiting(Lease(7, 1, 60.0), now=clock.perf_counter)
    attempt.clock = clock
    return Fetching(clock, attempt, StageClock())


def test_waiting_for_the_broker_is_not_charged_to_the_fetch(fetching: Fetching) -> None:
    fetching.stages.add("wait", 10.0)  # of a fetch before
    fetching.fetch()
    spent = {stage: seconds for stage, seconds in fetching.stages.seconds.items() if seconds}
    assert (spent, fetching.stages.wire_bytes) == ({"wait": 17.0, "fetch": 3.0}, 600)


def test_an_attempt_that_waits_for_the_broker_does_not_stall(fetching: Fetching) -> None:
    """It would be charged with a crash; the fetch's own deadline ends it, at no cost."""
    fetching.fetch()
    assert not fetching.attempt.is_stalled(1.0)
    fetching.clock.now_s += 0.5  # and it is judged again from then on
    assert fetching.attempt.is_stalled(1.0)
