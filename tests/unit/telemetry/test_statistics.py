"""RunStatistics: survives JSON, and its derived figures are bounded and honest."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.model import STAGES, Death, Refusal, RunState, TableCount
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.scenes import run_of

BASE = run_of(
    paths=("/a.zst", "/b.zst"),
    notices=("/b.zst: loaded already by run 1: skipped",),
    files=2,
    skipped_files=1,
    estimated_lines=1_000,
    chunks=10,
    chunks_ready=3,
    chunks_running=2,
    chunks_done=5,
    lines=500,
    loaded=480,
    filtered=10,
    rejected=6,
    blank=4,
    rejected_parts=2,
    rows=(TableCount("public.t", 960, 900, 40, 20),),
    retries=1,
    own_lines=250,
    own_raw_bytes=5_000_000,
    seconds=5.0,
    raw_bytes=10_000_000,
    wire_bytes=1_000_000,
    stage_seconds=dict.fromkeys(STAGES, 0.5),
    refusals=(Refusal(2, 3, "/a.zst", 7, None, "odd", None, None, "make it even"),),
    deaths=(Death(2, "failed 5 times", "MemoryError", "no room"),),
)


def test_it_survives_the_way_over_json() -> None:
    again = RunStatistics.from_json(json.loads(json.dumps(BASE.to_json())))
    assert again == BASE
    assert isinstance(again.state, RunState)
    assert isinstance(again.rows[0], TableCount)
    assert isinstance(again.refusals[0], Refusal)


def test_speeds_are_of_the_runs_own_share() -> None:
    assert BASE.lines_per_s == 50.0
    assert BASE.raw_mb_per_s == 1.0
    assert BASE.rows_per_s == 960 * 0.5 / 5.0
    assert BASE.fraction == 0.5


@pytest.mark.parametrize("changes", [{"seconds": 0.0}, {"lines": 0, "own_lines": 0}, {"estimated_lines": 0}])
def test_nothing_divides_by_zero(changes: dict[str, Any]) -> None:
    picture = replace(BASE, **changes)
    assert [picture.lines_per_s, picture.rows_per_s, picture.raw_mb_per_s, picture.fraction] >= [0.0] * 4


@given(lines=st.integers(0, 10**12), estimated=st.integers(0, 10**12), state=st.sampled_from(RunState))
def test_a_fraction_is_a_fraction_however_wrong_the_estimate(lines: int, estimated: int, state: RunState) -> None:
    assert 0.0 <= replace(BASE, lines=lines, estimated_lines=estimated, state=state).fraction <= 1.0


def test_an_empty_run_is_all_done_when_it_has_ended() -> None:
    empty = replace(BASE, lines=0, estimated_lines=0)
    assert empty.fraction == 0.0
    assert replace(empty, state=RunState.SUCCEEDED).fraction == 1.0


def test_the_summary_is_the_contract_of_load_json() -> None:
    summary = BASE.summary()
    assert list(summary) == [
        *("run", "state", "files", "chunks", "lines", "loaded", "filtered", "rejected", "blank", "rows"),
        *("dead_letters", "retries", "seconds", "lines_per_s", "raw_bytes", "wire_bytes", "skipped_files"),
    ]
    assert summary["rows"] == {"public.t": {"inserted": 900, "updated": 40, "ignored": 20}}
    assert json.loads(json.dumps(summary)) == summary
