"""Events of changes in the ledger are told after their COMMIT, by whoever made the change."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest

from protheon_dask.config import Settings
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.desk import Place, RunDesk
from tests.integration.run.conftest import Bench


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    """The facts of each time that this event was told."""
    standard = vars(logging.makeLogRecord({}))
    records = [record for record in caplog.records if record.message == event]
    return [{name: value for name, value in vars(record).items() if name not in {*standard, "message", "asctime"}} for record in records]


def test_a_dead_letter_is_told_of_once_it_is_written(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.submit("1\n2\n", body="raise MemoryError('no room')")
    worker = bench.worker(dead_at_failures=2, backoff_base_s=0.01)
    worker.run(bench.dispatch())
    assert told(caplog, "task.dead_letter") == []
    worker.run(bench.dispatch())
    assert told(caplog, "task.dead_letter") == [{"task_id": bench.task_ids[0], "attempt_no": 2, "reason": "failed 2 times"}]
    assert bench.ask("SELECT state FROM protheon.task WHERE id = %s", bench.task_ids[0]) == [("dead",)]


def test_a_run_that_pauses_itself_is_told_of_with_its_reason(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.submit("1\nx\ny\n2\n", reject_limit_lines=1)
    bench.worker().run(bench.dispatch())
    [[reason]] = bench.ask("SELECT state_reason FROM protheon.run WHERE id = %s AND state = 'paused'", bench.run_id)
    assert told(caplog, "run.pause") == [{"run_id": bench.run_id, "reason": reason}]


def test_what_a_person_does_to_a_run_is_told_of_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.submit("1\n")
    caplog.set_level(logging.INFO)
    coordinator = Coordinator(Settings(), bench.url, "tcp://127.0.0.1:1", bench.store, uuid4(), 1)
    desk = RunDesk(Settings(), bench.url, coordinator, Place("", "", ""), ephemeral=False)
    for _ in range(2):
        desk.pause(bench.run_id, "lunch")
        desk.cancel(bench.run_id)
    assert told(caplog, "run.pause") == [{"run_id": bench.run_id, "reason": "lunch"}]
    assert told(caplog, "run.cancel") == [{"run_id": bench.run_id}]
