"""What a fetch takes is the link's; what it waits for a broker that is away is charged apart."""

from __future__ import annotations

from collections.abc import Callable
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


def test_waiting_for_the_broker_is_not_charged_to_the_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stages = Clock(), StageClock()
    monkeypatch.setattr(ingest, "time", clock)
    stages.add("wait", 10.0)  # of a fetch before
    attempt = Waiting(Lease(7, 1, 60.0))
    attempt.clock = clock
    work = SimpleNamespace(
        chunk=SimpleNamespace(generation=1, stored_bytes=500, stored_xxh3=b"s" * 16),
        claimed=SimpleNamespace(lease=attempt.lease),
        settings=Settings(),
        clock=stages,
        attempt=attempt,
    )
    with ingest.fetch(cast("ingest.ChunkWork", work), cast("BrokerClient", SlowBroker(clock))):
        pass
    spent = {stage: seconds for stage, seconds in stages.seconds.items() if seconds}
    assert (spent, stages.wire_bytes) == ({"wait": 17.0, "fetch": 3.0}, 600)
