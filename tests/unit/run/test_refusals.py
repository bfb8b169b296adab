"""Where workers cannot claim, the coordinator dispatches ever more seldom, and says why."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

from protheon_dask.config import Settings
from protheon_dask.model import Dispatch
from protheon_dask.run.coordinator import MAX_HOLD_S, Coordinator
from protheon_dask.run.dask_link import Answered
from protheon_dask.run.tasks import REFUSED
from protheon_dask.workspace.chunkfile import ChunkStore

DISPATCH = Dispatch(1, 0, "ingest")


def hold_s(coordinator: Coordinator) -> float:
    return coordinator._hold_until - time.monotonic()


def test_refused_claims_hold_dispatching_longer_each_time_until_one_succeeds(tmp_path: Path) -> None:
    coordinator = Coordinator(Settings(), "postgresql:///nowhere", "tcp://127.0.0.1:1", ChunkStore(tmp_path, 1 << 20), uuid4(), 1)
    held = []
    for _ in range(12):
        coordinator._take(Answered(DISPATCH, f"{REFUSED}password authentication failed"))
        held.append(hold_s(coordinator))
    assert [round(seconds) for seconds in held] == [2, 4, 8, 16, *[MAX_HOLD_S] * 8]
    assert coordinator.waiting_for is not None
    assert "password authentication failed" in coordinator.waiting_for

    coordinator._take(Answered(DISPATCH, "succeeded"))
    assert hold_s(coordinator) < 0
    assert coordinator.waiting_for is None
