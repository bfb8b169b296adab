"""Pictures of runs for tests that draw: one in the middle of its work, changed by keyword."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from protheon_dask.model import TableCount
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.scenes import run_of

MIDDLE = run_of(
    files=1,
    files_done=0,
    estimated_lines=20_000,
    chunks=16,
    chunks_ready=7,
    chunks_running=2,
    chunks_done=7,
    lines=8_750,
    loaded=8_747,
    rejected=2,
    blank=1,
    rows=(TableCount("pgcr.destiny_player", 39_000, 30_000, 1_000, 8_000), TableCount("pgcr.instance", 8_747, 8_747, 0, 0)),
    retries=1,
    own_lines=8_750,
    own_raw_bytes=58_000_000,
    seconds=5.0,
    raw_bytes=58_000_000,
    wire_bytes=6_100_000,
    stage_seconds={"transform": 2.0, "copy": 6.0, "merge": 2.0, "wait": 0.0},
)


def picture_of(**changes: Any) -> RunStatistics:
    """The run in the middle of its work, but for the changes."""
    return replace(MIDDLE, **changes)
