"""From heartbeats to rates, utilization, and who was lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.model import STAGES, StageClock
from protheon_dask.run.doing import Doing
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, WorkerPicture
from protheon_dask.telemetry.workers import SHOWN_LOST_S, SILENT_S, Report, Workers

NONE = Report.of("w-1", "h", "boot 1", 0.0, None)
TOLD = replace(NONE, is_told=True, n_cores=4, stage_seconds=dict.fromkeys(STAGES, 0.0))


def only(workers: Workers, now_s: float) -> WorkerPicture:
    [picture] = workers.pictures(now_s)
    return picture


def test_what_a_worker_tells_is_what_is_understood() -> None:
    clock = StageClock(lines=10, rows=20, raw_bytes=300, wire_bytes=40)
    doing = Doing(lambda: 100.0, 8)
    with doing.at_work(7, 3, clock, 98.0):
        clock.enter("copy", 99.0)
        report = Report.of("w-1", "h", "boot 1", 0.25, doing.told())
    assert (report.is_told, report.task_id, report.run, report.stage, report.stage_s) == (True, 7, 3, "copy", 1.0)
    assert (report.busy_s, report.lines, report.rows, report.raw_bytes, report.wire_bytes, report.n_cores) == (2.0, 10, 20, 300, 40, 8)
    assert {stage: s for stage, s in report.stage_seconds.items() if s} == {"copy": 1.0}


@given(st.none() | st.integers() | st.dictionaries(st.sampled_from(["task", "at_s", "stages", "x"]), st.none() | st.text() | st.integers()))
def test_what_is_not_understood_is_a_worker_that_told_nothing(metric: Any) -> None:
    assert Report.of("w-1", "h", "boot 1", 0.0, metric) == NONE


def test_rates_and_utilization_are_of_the_last_seconds_by_the_workers_own_clock() -> None:
    workers = Workers()
    for second in range(0, 40, 2):  # busy half the time until 30, then always; 100 lines a second of work
        busy_s = second / 2 if second <= 30 else 15 + (second - 30)
        told = replace(
            TOLD, at_s=5_000.0 + second, busy_s=busy_s, lines=int(busy_s * 100), tasks=second, task_id=second, run=1, stage="copy"
        )
        workers.take([told], float(second))
    picture = only(workers, 38.5)
    assert (picture.status, picture.task_id, picture.tasks_completed, picture.stage) == (BUSY, 38, 38, "copy")
    assert picture.utilization == pytest.approx(0.9)  # from 28 to 38: two seconds at a half, eight of work
    assert picture.lines_per_s == pytest.approx(90)
    assert picture.last_heartbeat_s == pytest.approx(0.5)


def test_a_boot_begins_at_zero_and_one_that_told_nothing_yet_has_no_rate() -> None:
    workers = Workers()
    workers.take([replace(TOLD, at_s=9_000.0, lines=10**6)], 0.0)
    workers.take([replace(NONE, process="boot 2")], 2.0)
    assert (only(workers, 2.0).status, only(workers, 2.0).lines_per_s) == (IDLE, 0.0)
    workers.take([replace(TOLD, process="boot 2", at_s=50.0, lines=500)], 4.0)
    assert only(workers, 4.0).lines_per_s == 0.0
    workers.take([replace(TOLD, process="boot 2", at_s=52.0, lines=700)], 6.0)
    assert only(workers, 6.0).lines_per_s == pytest.approx(100)


def test_a_worker_that_is_gone_is_lost_for_a_minute_unless_it_comes_back() -> None:
    workers = Workers()
    gone, stays = replace(TOLD, name="w-10"), replace(TOLD, name="w-2")
    workers.take([gone, stays], 0.0)
    workers.take([stays], 2.0)
    assert [(it.name, it.status) for it in workers.pictures(2.0)] == [("w-2", IDLE), ("w-10", LOST)]
    workers.take([replace(gone, process="boot 2"), stays], 4.0)
    assert [it.status for it in workers.pictures(4.0)] == [IDLE, IDLE]
    workers.take([], 6.0)
    assert [it.status for it in workers.pictures(6.0 + SHOWN_LOST_S / 2)] == [LOST, LOST]
    assert workers.pictures(6.0 + SHOWN_LOST_S) == ()


def test_a_worker_of_which_nothing_is_heard_is_lost_though_the_scheduler_has_it_still() -> None:
    workers = Workers()
    workers.take([replace(TOLD, task_id=1, age_s=SILENT_S - 1)], 0.0)
    assert only(workers, 0.5).status == BUSY
    assert (only(workers, 1.0).status, only(workers, 1.0).task_id) == (LOST, None)


def test_stages_are_summed_over_workers_and_the_last_seconds_alone() -> None:
    workers = Workers()

    def told(name: str, second: int, copy_s: float) -> Report:
        return replace(TOLD, name=name, at_s=float(second), stage_seconds={**dict.fromkeys(STAGES, 0.0), "copy": copy_s})

    for second in range(0, 60, 2):
        workers.take([told("w-1", second, 0.5 * second), told("w-2", second, 100.0)], float(second))
    assert workers.stage_seconds(58.0)["copy"] == pytest.approx(5.0)
    assert workers.n_cores() == 4  # of one host, however many workers it has
    assert Workers().n_cores() is None
