"""The broker's answers for tasks: what a submission may say, one task for a request, and the ends of a wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.broker import task_service
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.wire import TaskSubmission
from protheon_dask.errors import ConfigError, LedgerUnavailable, NotFound
from protheon_dask.ledger import runs, tasks, verbs
from protheon_dask.model import Seen, Worker
from protheon_dask.run.master import Master
from protheon_dask.run.task_desk import TaskDesk
from tests.integration.run.conftest import Bench, Running

TASKS = """
import protheon_dask as protheon

@protheon.task
def add(payload): return sum(payload)

def plain(payload): return payload
"""


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that the broker can import."""
    (tmp_path / "desk_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "desk_tasks.py"


@pytest.fixture
def desk(bench: Bench) -> TaskDesk:
    return TaskDesk(bench.url, lambda: None)


@pytest.fixture
def connect(bench: Bench) -> Callable[[TaskDesk], Master]:
    """A client of a broker with this desk."""

    def made(desk: TaskDesk) -> Master:
        broker = bench.stack.enter_context(BrokerThread(None, None, "127.0.0.1", 0, tasks=desk))  # type: ignore[arg-type]  # only tasks are asked for
        return bench.stack.enter_context(Master(f"127.0.0.1:{broker.port}"))

    return made


def count(bench: Bench) -> int:
    [(n,)] = bench.ask("SELECT count(*) FROM protheon.task")
    return int(n)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"delay_s": -1.0}, "delay_s=-1 must be within 0 and"),
        ({"delay_s": float("nan")}, "delay_s=nan must be"),
        ({"delay_s": 1e12}, "delay_s=1e"),
        ({"visibility_timeout_s": 0.5}, "must be at least 1, or 0"),
        ({"visibility_timeout_s": float("inf")}, "visibility_timeout_s=inf"),
        ({"priority": 32_768}, "priority=32768 must be within -32768 and 32767"),
        ({"max_failures": -1}, "max_failures=-1"),
        ({"request_id": "x" * 201}, "at most 200"),
        ({"request_id": "a\0"}, "printable"),
        ({"payload_json": "{"}, "the payload for desk_tasks:add is no JSON"),
        ({"payload_json": '"\\u0000"'}, "NUL"),
        ({"handler": "desk_tasks"}, "say module:name"),
        ({"handler": "ingest"}, "say module:name"),
    ],
)
def test_a_submission_that_makes_no_sense_is_refused_with_the_reason(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TaskDesk("postgresql://nobody@127.0.0.1:1/none", lambda: None).submit(TaskSubmission(**{"handler": "desk_tasks:add", **given}))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"delay_s.*priority.*max_failures"):
        TaskDesk("postgresql://nobody@127.0.0.1:1/none", lambda: None).submit(
            TaskSubmission("a:b", delay_s=-1, priority=1 << 20, max_failures=1 << 20)
        )


def test_a_handler_is_judged_where_its_module_can_be_imported_and_left_to_the_workers_elsewhere(
    desk: TaskDesk, importable: Path, bench: Bench
) -> None:
    assert desk.submit(TaskSubmission("desk_tasks:add", "[1,2]")).state == "ready"
    for handler, words in (("desk_tasks:plain", "is no task"), ("desk_tasks:none", "no task 'none'"), ("os:system", "is no task")):
        with pytest.raises(ConfigError, match=words):
            desk.submit(TaskSubmission(handler))
    assert desk.submit(TaskSubmission("not_on_this_host:f")).state == "ready"
    assert count(bench) == 2


def test_a_function_that_was_added_since_is_found(desk: TaskDesk, importable: Path) -> None:
    with pytest.raises(ConfigError):
        desk.submit(TaskSubmission("desk_tasks:later"))
    importable.write_text(TASKS + "\n@protheon.task\ndef later(payload): pass\n")
    assert desk.submit(TaskSubmission("desk_tasks:later")).state == "ready"


def test_a_module_that_cannot_be_imported_here_takes_nobody_with_it(desk: TaskDesk, importable: Path) -> None:
    for body in ("import os; os._exit(0)", "import sys; sys.exit(3)", "import nothing_like_that", "1/0"):
        importable.write_text(body)
        assert desk.submit(TaskSubmission("desk_tasks:add")).state == "ready"


def test_a_module_is_imported_for_the_first_of_many_submissions_only(desk: TaskDesk, importable: Path) -> None:
    importable.write_text(f"open({str(importable.parent / 'imported')!r}, 'a').write('x')\n{TASKS}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: desk.submit(TaskSubmission("desk_tasks:add", f"[{n}]")), range(12)))
    assert (importable.parent / "imported").read_text() == "x"


def test_one_request_is_one_task_and_another_content_is_refused(desk: TaskDesk, bench: Bench) -> None:
    asked = TaskSubmission("elsewhere:f", '{"a": 1, "b": 2}', priority=3, visibility_timeout_s=5, max_failures=2, request_id="once")
    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda _: desk.submit(asked), range(16)))
    assert len({view.task_id for view in views}) == 1
    assert desk.submit(TaskSubmission("elsewhere:f", '{"b":2,"a":1}', 3, 60.0, 5, 2, "once")).task_id == views[0].task_id
    for other in (
        TaskSubmission("elsewhere:g", asked.payload_json, 3, 0, 5, 2, "once"),
        TaskSubmission("elsewhere:f", "1", 3, 0, 5, 2, "once"),
        TaskSubmission("elsewhere:f", asked.payload_json, 4, 0, 5, 2, "once"),
        TaskSubmission("elsewhere:f", asked.payload_json, 3, 0, 0, 2, "once"),
        TaskSubmission("elsewhere:f", asked.payload_json, 3, 0, 5, 0, "once"),
    ):
        with pytest.raises(ConfigError, match=f"request 'once' made task {views[0].task_id}, with another"):
            desk.submit(other)
    assert count(bench) == 1


def test_a_delayed_task_says_when_it_may_be_claimed(desk: TaskDesk) -> None:
    view = desk.submit(TaskSubmission("elsewhere:f", delay_s=3_600.0))
    assert view.ready_at is not None
    assert (view.ready_at - view.submitted_at).total_seconds() == pytest.approx(3_600.0)


def test_cancelling_is_idempotent_and_leaves_what_has_ended(desk: TaskDesk, bench: Bench) -> None:
    view = desk.submit(TaskSubmission("elsewhere:f"))
    assert [desk.cancel(view.task_id).state for _ in range(2)] == ["cancelled", "cancelled"]
    done = desk.submit(TaskSubmission("elsewhere:f"))
    bench.conn.execute("UPDATE protheon.task SET state = 'succeeded' WHERE id = %s", (done.task_id,))
    assert desk.cancel(done.task_id).state == "succeeded"
    for ask in (desk.get, desk.cancel):
        with pytest.raises(NotFound, match="there is no task 4711"):
            ask(4711)


def test_a_chunk_is_shown_as_the_task_that_it_is_and_is_cancelled_with_its_run_only(desk: TaskDesk, bench: Bench) -> None:
    bench.submit("1\n")
    assert (desk.get(bench.task_ids[0]).handler, desk.get(bench.task_ids[0]).payload_json) == ("ingest", "null")
    with pytest.raises(ConfigError, match="is a chunk of load"):
        desk.cancel(bench.task_ids[0])
    assert bench.state() == "ready"


def test_a_task_that_is_being_completed_for_ever_does_not_hold_who_cancels_it(
    desk: TaskDesk, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "CANCEL_WAIT_MS", "200")
    view = desk.submit(TaskSubmission("elsewhere:f"))
    with psycopg.connect(bench.url) as frozen:
        frozen.execute("SELECT FROM protheon.task WHERE id = %s FOR UPDATE", (view.task_id,))
        with pytest.raises(LedgerUnavailable):
            desk.cancel(view.task_id)
    assert desk.cancel(view.task_id).state == "cancelled"


def test_a_cluster_that_ends_with_its_command_finds_the_attempts_of_tasks_to_give_back(desk: TaskDesk, bench: Bench) -> None:
    bench.submit("1\n")
    task_id = desk.submit(TaskSubmission("elsewhere:f")).task_id
    worker = Worker(uuid4(), "w", "h")
    for claimed_id in (task_id, bench.task_ids[0]):
        assert verbs.claim(bench.conn, Seen(claimed_id, 0), worker, uuid4(), 60.0) is not None
    assert runs.ephemeral_attempts(bench.conn, with_tasks=True) == [Seen(task_id, 1)]  # the run's cluster goes on
    assert runs.ephemeral_attempts(bench.conn, with_tasks=False) == []


# --- waiting --------------------------------------------------------------------------------------------------------------------


class Counted(TaskDesk):
    """Counts the questions that waiting asks."""

    n_asked = 0

    def ended(self, task_ids: Any) -> Any:
        self.n_asked += 1
        return super().ended(task_ids)


def test_many_that_wait_are_answered_by_few_questions(
    bench: Bench, connect: Callable[[TaskDesk], Master], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_service, "TASK_PERIOD_S", 0.1)
    desk = Counted(bench.url, lambda: None)
    master = connect(desk)
    task_ids = [desk.submit(TaskSubmission("elsewhere:f", str(n))).task_id for n in range(20)]
    started_s = time.monotonic()
    waiting = [Running(partial(master.wait_task, task_id)) for task_id in task_ids]
    time.sleep(0.5)
    bench.conn.execute("UPDATE protheon.task SET state = 'succeeded', result = payload")
    assert [call.answer().result_json for call in waiting] == [str(n) for n in range(20)]
    assert 0 < desk.n_asked <= (time.monotonic() - started_s) / 0.1 + 1
    time.sleep(0.3)
    asked = desk.n_asked
    time.sleep(0.3)
    assert desk.n_asked == asked  # nobody waits: nobody asks


def test_a_wait_ends_with_the_task_as_it_is_when_its_time_is_over(
    bench: Bench, desk: TaskDesk, connect: Callable[[TaskDesk], Master]
) -> None:
    master = connect(desk)
    view = master.submit_task("elsewhere:f", {"a": [1]})
    assert master.wait_task(view.task_id, 0.3).state == "ready"
    assert master.task(view.task_id) == view
    assert master.cancel_task(view.task_id).state == "cancelled"
    assert master.wait_task(view.task_id).state == "cancelled"
    with pytest.raises(NotFound):
        master.wait_task(4711)
    with pytest.raises(ConfigError, match="timeout_s=-1"):
        master._client.wait_task(view.task_id, -1.0)


def test_a_wait_outlives_an_outage_of_postgres(bench: Bench, connect: Callable[[TaskDesk], Master]) -> None:
    class Away(TaskDesk):
        is_away = False

        def ended(self, task_ids: Any) -> Any:
            if self.is_away:
                raise LedgerUnavailable("away")
            return super().ended(task_ids)

        def get(self, task_id: int) -> Any:
            if self.is_away:
                raise LedgerUnavailable("away")
            return super().get(task_id)

    desk = Away(bench.url, lambda: None)
    master = connect(desk)
    task_id = desk.submit(TaskSubmission("elsewhere:f")).task_id
    waiting = Running(lambda: master.wait_task(task_id))
    time.sleep(0.3)
    desk.is_away = True
    time.sleep(0.6)
    bench.conn.execute("UPDATE protheon.task SET state = 'succeeded', result = '1'")
    desk.is_away = False
    assert waiting.answer().result_json == "1"
