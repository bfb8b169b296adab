"""Functions of the general queue in a worker process: what they return and write is there once, whatever ends them.

The worker runs in this process, so that a function and its test can wait for each other.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import protheon_dask as protheon
from protheon_dask import errors
from protheon_dask.ledger import tasks, verbs
from protheon_dask.ledger.statements import statement
from protheon_dask.model import Dispatch, Lease, Outcome, Seen
from protheon_dask.run import completing
from protheon_dask.run.keeper import Attempt, LeaseKeeper
from protheon_dask.run.worker import WorkerProcess
from tests.fixtures.cluster import wait_until
from tests.fixtures.postgres_proxy import Loss, PostgresProxy
from tests.integration.run.conftest import LOST, Bench, Running


@dataclass
class Queue:
    """The bench's ledger with one task in it, whose function the test brings, and a table without a key."""

    bench: Bench
    functions: types.ModuleType
    task_id: int = 0

    def put(self, made: Callable[..., Any], payload: str = "null", **options: Any) -> None:
        """Put a task for this function into the queue."""
        name = f"f{uuid4().hex[:8]}"
        setattr(self.functions, name, protheon.task(name=name)(made))
        self.put_handler(f"{self.functions.__name__}:{name}", payload, **options)

    def put_handler(self, handler: str, payload: str = "null", **options: Any) -> None:
        defaults = {"priority": 0, "delay_s": 0.0, "visibility_s": None, "max_failures": None, "request_id": None}
        self.task_id = tasks.enqueue(self.bench.conn, tasks.NewTask(handler=handler, payload=payload, **{**defaults, **options}))

    def dispatch(self) -> Dispatch:
        record = self.record()
        return Dispatch(record.task_id, record.attempt_no, record.handler)

    def run(self, worker: WorkerProcess | None = None) -> str:
        return (worker or self.bench.worker()).run(self.dispatch())

    def record(self) -> tasks.TaskRecord:
        [record] = tasks.records(self.bench.conn, [self.task_id])
        return record

    def kept(self) -> list[int]:
        return [row[0] for row in self.bench.ask("SELECT n FROM public.kept ORDER BY n")]

    def endings(self) -> list[tuple[int, str | None, str | None]]:
        return self.bench.ask("SELECT attempt_no, outcome, cost FROM protheon.attempt WHERE task_id = %s ORDER BY attempt_no", self.task_id)

    def expire(self) -> None:
        """Take the attempt from its worker, as the coordinator does when its lease ran out."""
        with self.bench.conn.transaction():
            [expiring] = verbs.expire(self.bench.conn, self.bench.epoch, [Seen(self.task_id, self.record().attempt_no)])
            verbs.release(self.bench.conn, expiring.lease, LOST, Outcome.EXPIRED, 0.0)


@pytest.fixture
def queue(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Queue:
    bench.conn.execute("CREATE TABLE public.kept (n bigint)")
    module = types.ModuleType("functions_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Queue(bench, module)


@pytest.fixture
def proxy(bench: Bench) -> Iterator[PostgresProxy]:
    with PostgresProxy(bench.url) as between:
        yield between


def keep(payload: Any, context: protheon.TaskContext) -> str:
    """A row that is written twice shows."""
    context.connection.execute("INSERT INTO public.kept VALUES (%s)", (payload,))
    return "kept"


# --- what goes in and comes out -----------------------------------------------------------------------------------------------


def test_a_function_gets_its_payload_and_its_result_is_kept(queue: Queue) -> None:
    worker = queue.bench.worker()
    for payload in ("null", "7", '"\u00e4"', "[]", '{"a": [1, {"b": null}]}'):
        queue.put(lambda payload: {"got": payload}, payload)
        assert queue.run(worker) == "succeeded"
        record = queue.record()
        assert (record.state, record.result_json, record.payload_json) == ("succeeded", f'{{"got": {payload}}}', payload)
        assert record.ended_at is not None
        assert queue.endings() == [(1, "succeeded", "nothing")]
        assert queue.run(worker) == "not claimed"


def test_what_a_function_writes_is_there_with_its_result(queue: Queue) -> None:
    queue.put(keep, "7")
    assert queue.run() == "succeeded"
    assert (queue.kept(), queue.record().result_json) == ([7], '"kept"')


def test_a_function_knows_its_attempt(queue: Queue) -> None:
    queue.put(lambda payload, context: [context.task_id, context.attempt_no])
    assert queue.run() == "succeeded"
    assert queue.record().result_json == f"[{queue.task_id}, 1]"


def test_a_worker_loads_chunks_and_runs_functions_side_by_side(queue: Queue) -> None:
    worker = queue.bench.worker()
    queue.bench.submit("1\n2\n")
    queue.put(keep, "7")
    assert [worker.run(queue.bench.dispatch()), queue.run(worker)] == ["succeeded", "succeeded"]
    assert (queue.bench.numbers(), queue.kept()) == ([1, 2], [7])


def test_a_result_that_is_no_json_is_a_failure_and_nothing_stays(queue: Queue) -> None:
    worker = queue.bench.worker()
    for result, words in (
        (object(), "object is not JSON serializable; give None"),
        (float("nan"), "no NaN"),
        ("a\0", "NUL"),
        ("x" * (1 << 20), "put the data into a table or a file"),
    ):
        queue.put(lambda payload, context, result=result: [keep(payload, context), result], "7")
        assert queue.run(worker) == "failed"
        record = queue.record()
        assert (record.state, record.error_class) == ("ready", "ConfigError")
        assert words in str(record.message)
        assert str(record.message).startswith(f"what {record.handler} returned ")
    assert queue.kept() == []


def test_the_example_of_the_documentation_does_what_stands_there(queue: Queue) -> None:
    example = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text().partition("```python\n")[2].partition("```")[0]
    exec(example, queue.functions.__dict__)
    queue.bench.conn.execute("CREATE TABLE public.word_counts (doc bigint, n bigint)")
    queue.put_handler("functions_of_a_test:count_words", '{"doc": 7, "text": "to be or not"}')
    assert queue.run() == "succeeded"
    assert queue.record().result_json == '{"words": 4}'
    assert queue.bench.ask("SELECT doc, n FROM public.word_counts") == [(7, 4)]


# --- failures -----------------------------------------------------------------------------------------------------------------


class Untold(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_what_a_function_raises_is_a_failure_with_its_traceback(queue: Queue) -> None:
    worker = queue.bench.worker()
    for raised, message in (
        (KeyError("k"), "'k'"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "3"),
        (MemoryError(), "MemoryError"),
        (Untold(), "<exception str() failed>"),
        (protheon.ProtheonError("mine"), "mine"),
        (errors.LedgerUnavailable("mine"), "mine"),
        (errors.LeaseLost(7, 1), "task 7: attempt 1 no longer holds the lease"),
    ):

        def raises_it(payload: Any, context: protheon.TaskContext, raised: BaseException = raised) -> None:
            keep(payload, context)
            raise raised

        queue.put(raises_it, "7")
        assert queue.run(worker) == "failed"
        record = queue.record()
        assert (record.state, record.error_class, record.message) == ("ready", type(raised).__name__, message)
        assert record.ready_at is not None
        assert queue.endings() == [(1, "failed", "failure")]
        [(traceback,)] = queue.bench.ask("SELECT traceback FROM protheon.attempt WHERE task_id = %s", queue.task_id)
        assert "raises_it" in traceback
    assert queue.kept() == []


def test_a_task_is_dead_at_its_own_number_of_failures(queue: Queue) -> None:
    queue.put(lambda payload: 1 // 0, max_failures=2)
    worker = queue.bench.worker()
    assert queue.run(worker) == "failed"
    queue.bench.make_due()
    assert queue.run(worker) == "failed"
    record = queue.record()
    assert (record.state, record.error_class, record.message) == ("dead", "ZeroDivisionError", "integer division or modulo by zero")
    assert queue.bench.ask("SELECT task_id, attempt_no, reason FROM protheon.dead_letter") == [(queue.task_id, 2, "failed 2 times")]
    assert record.ended_at is not None


def test_without_a_number_of_its_own_the_settings_say_when_it_is_dead(queue: Queue) -> None:
    queue.put(lambda payload: 1 // 0)
    worker = queue.bench.worker(dead_at_failures=1)
    assert queue.run(worker) == "failed"
    assert queue.record().state == "dead"


def test_a_handler_that_the_worker_does_not_have_is_a_failure_that_names_it(queue: Queue) -> None:
    queue.put_handler("functions_of_a_test:missing")
    queue.run()
    record = queue.record()
    assert (record.state, record.error_class) == ("ready", "NotFound")
    assert "no task 'missing'" in str(record.message)


def test_a_function_that_is_not_decorated_is_never_called(queue: Queue, tmp_path: Any) -> None:
    queue.put_handler("os:mkdir", f'"{tmp_path / "made"}"')
    queue.run()
    assert "os:mkdir is no task" in str(queue.record().message)
    assert not (tmp_path / "made").exists()


# --- the connection -----------------------------------------------------------------------------------------------------------


def commit(context: protheon.TaskContext) -> None:
    context.connection.commit()


def close(context: protheon.TaskContext) -> None:
    context.connection.close()


def leave_a_with_block(context: protheon.TaskContext) -> None:
    with context.connection:
        pass


def roll_back(context: protheon.TaskContext) -> None:
    context.connection.rollback()


def roll_back_in_sql(context: protheon.TaskContext) -> None:
    context.connection.execute("ROLLBACK")


def roll_back_and_begin_in_sql(context: protheon.TaskContext) -> None:
    context.connection.execute("ROLLBACK")
    context.connection.execute("BEGIN")


def swallow_an_error(context: protheon.TaskContext) -> None:
    with contextlib.suppress(psycopg.Error):
        context.connection.execute("SELECT 1/0")


def leave_a_copy_open(context: protheon.TaskContext) -> None:
    OPEN.append(context.connection.cursor().copy("COPY public.kept FROM STDIN"))
    OPEN[-1].__enter__()


OPEN: list[Any] = []


def test_a_misused_connection_is_a_failure_that_teaches(queue: Queue) -> None:
    worker, ended = queue.bench.worker(), "ended the transaction of its task"
    for misuse, words in (
        (commit, "commit() of a task's connection is refused"),
        (roll_back, "rollback() of a task's connection is refused"),
        (close, "close(), or the end of a with block of it, of a task's connection is refused"),
        (leave_a_with_block, "of a task's connection is refused"),
        (swallow_an_error, "a statement of the function failed and the function went on"),
        (leave_a_copy_open, "in the midst of a COPY"),
        (roll_back_in_sql, ended),
        (roll_back_and_begin_in_sql, ended),
    ):
        queue.put(lambda payload, context, misuse=misuse: [keep(payload, context), misuse(context)], "7")
        assert queue.run(worker) == "failed"
        assert words in str(queue.record().message)
        assert queue.kept() == []
    queue.put(keep, "8")
    assert queue.run(worker) == "succeeded"
    assert queue.kept() == [8]


def test_a_statement_may_fail_in_a_savepoint(queue: Queue) -> None:
    def tries(payload: Any, context: protheon.TaskContext) -> None:
        keep(payload, context)
        with pytest.raises(psycopg.errors.DivisionByZero), context.connection.transaction():
            context.connection.execute("INSERT INTO public.kept SELECT 1/0")

    queue.put(tries, "7")
    assert queue.run() == "succeeded"
    assert queue.kept() == [7]


def test_an_error_of_the_functions_own_sql_is_its_failure_and_not_the_operators(queue: Queue) -> None:
    queue.put(lambda payload, context: context.connection.execute("SELECT * FROM public.no_such_table"))
    assert queue.run() == "failed"
    record = queue.record()
    assert (record.state, record.error_class) == ("ready", "UndefinedTable")
    assert queue.bench.ask("SELECT sqlstate, cost FROM protheon.attempt") == [("42P01", "failure")]


def test_a_serialization_failure_is_tried_again_at_no_cost(queue: Queue) -> None:
    queue.put(lambda payload, context: context.connection.execute("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$"))
    assert queue.run() == "released"
    assert queue.endings() == [(1, "released", "nothing")]


def test_an_error_of_another_database_connection_is_the_functions(queue: Queue) -> None:
    def asks_elsewhere(payload: Any, context: protheon.TaskContext) -> None:
        keep(payload, context)
        psycopg.connect("postgresql://nobody@127.0.0.1:1/none")

    queue.put(asks_elsewhere, "7")
    assert queue.run() == "failed"
    assert queue.record().error_class == "OperationalError"


def test_a_connection_that_breaks_costs_nothing_whatever_the_function_makes_of_it(queue: Queue) -> None:
    def is_cut_off(payload: Any, context: protheon.TaskContext) -> None:
        keep(payload, context)
        queue.bench.conn.execute("SELECT pg_terminate_backend(%s)", (context.connection.info.backend_pid,))
        try:
            context.connection.execute("SELECT 1")
        except psycopg.Error as exc:
            raise RuntimeError("my own words") from exc

    queue.put(is_cut_off, "7")
    assert queue.run().startswith("outage: ")
    assert queue.endings() == [(1, "released", "nothing")]
    assert queue.kept() == []


@pytest.mark.parametrize("how", ["tries again", "goes on without", "gives up in its own words"])
def test_only_what_a_connection_that_could_not_be_lent_ended_costs_nothing(queue: Queue, proxy: PostgresProxy, how: str) -> None:
    """A function that survives the outage and then fails is charged: else it would fail for ever."""

    def survives(payload: Any, context: protheon.TaskContext) -> None:
        proxy.is_away = True
        try:
            keep(payload, context)
        except errors.LedgerUnavailable:
            if how == "gives up in its own words":
                raise RuntimeError("no database") from None
        finally:
            proxy.is_away = False
        if how == "tries again":
            keep(payload, context)
        raise ValueError("its own")

    queue.put(survives, "7")
    worker = queue.bench.worker(proxy.url)
    if how == "gives up in its own words":
        assert queue.run(worker).startswith("outage: ")
        assert queue.endings() == [(1, "released", "nothing")]
    else:
        assert queue.run(worker) == "failed"
        assert queue.endings() == [(1, "failed", "failure")]
        assert queue.record().message == "its own"
    assert queue.kept() == []
    worker._drop_connection()


def test_what_a_function_does_to_its_session_ends_with_it(queue: Queue) -> None:
    def changes(payload: Any, context: protheon.TaskContext) -> None:
        context.connection.row_factory = psycopg.rows.dict_row
        context.connection.execute("SET search_path = nowhere")
        context.connection.execute("SELECT pg_advisory_lock(42)")

    worker = queue.bench.worker()
    queue.put(changes)
    assert queue.run(worker) == "succeeded"
    queue.put(lambda payload, context: list(context.connection.execute("SELECT current_setting('search_path')").fetchone()))
    assert queue.run(worker) == "succeeded"
    assert "nowhere" not in str(queue.record().result_json)
    wait_until(lambda: queue.bench.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42") == [])


# --- a COMMIT whose answer is lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [True, False], ids=["on its own connection", "on the worker's"])
def test_a_commit_whose_answer_is_lost_is_found_to_have_happened(queue: Queue, proxy: PostgresProxy, writes: bool) -> None:
    queue.put(keep if writes else lambda payload: "kept", "7")
    proxy.arm(Loss.ANSWER)
    assert queue.run(queue.bench.worker(proxy.url)) == "succeeded"
    assert proxy.struck.is_set()
    assert (queue.kept(), queue.record().result_json) == ([7] if writes else [], '"kept"')
    assert queue.endings() == [(1, "succeeded", "nothing")]


def test_a_commit_that_never_arrived_is_done_again_at_no_cost(queue: Queue, proxy: PostgresProxy) -> None:
    queue.put(keep, "7")
    worker = queue.bench.worker(proxy.url)
    proxy.arm(Loss.COMMIT)
    assert queue.run(worker).startswith("outage: ")
    assert queue.kept() == []
    queue.bench.make_due()
    assert queue.run(worker) == "succeeded"
    assert queue.kept() == [7]
    assert queue.endings() == [(1, "released", "nothing"), (2, "succeeded", "nothing")]


# --- the task is taken away in the middle ---------------------------------------------------------------------------------------


def taken_away(queue: Queue, how: str) -> None:
    """The function has written its row when its task is cancelled, or expires and is run by another worker."""
    wrote, go_on, is_first = threading.Event(), threading.Event(), [True]

    def waits(payload: Any, context: protheon.TaskContext) -> int:
        if is_first.pop() if is_first else False:
            keep(payload, context)
            wrote.set()
            go_on.wait(20)
        else:
            keep(payload, context)
        return context.attempt_no

    queue.put(waits, "7")
    first, second = queue.bench.worker(), queue.bench.worker()
    attempt = Running(lambda: queue.run(first))
    assert wrote.wait(20)
    successor = None
    if how == "cancelled":
        assert tasks.cancel(queue.bench.conn, queue.task_id)
    else:
        queue.expire()
        successor = Running(lambda: queue.run(second))
        wait_until(lambda: queue.bench.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    go_on.set()
    assert attempt.answer() == "lease lost"
    if successor is None:
        assert (queue.record().state, queue.kept(), queue.record().result_json) == ("cancelled", [], None)
        assert queue.endings() == [(1, "cancelled", "nothing")]
    else:
        assert successor.answer() == "succeeded"
        assert (queue.kept(), queue.record().result_json) == ([7], "2")


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_function_that_lost_its_task_leaves_no_row_and_no_result(queue: Queue, how: str) -> None:
    taken_away(queue, how)


def unfenced(name: str) -> bytes:
    text = real_statement(name).decode()
    if name == "complete":
        text = text.replace("AND state = 'running' AND attempt_no = %(attempt_no)s", "")
        text = text.replace("AND attempt.ended_at IS NULL", "")
    return text.encode()


real_statement = statement


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_completion_without_a_fence_would_be_caught(queue: Queue, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "statement", unfenced)
    with pytest.raises(AssertionError):
        taken_away(queue, how)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_completion_in_another_transaction_than_the_rows_would_be_caught(queue: Queue, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real_complete = completing.complete

    def in_two(work: Any, conn: Any, done: Any) -> None:
        conn.execute("COMMIT")
        conn.execute("BEGIN")
        real_complete(work, conn, done)

    monkeypatch.setattr(completing, "complete", in_two)
    with pytest.raises(AssertionError):
        taken_away(queue, how)
    assert queue.kept() != []


def test_a_function_that_looks_learns_that_its_task_was_cancelled(queue: Queue) -> None:
    asked = threading.Event()

    def looks(payload: Any, context: protheon.TaskContext) -> None:
        keep(payload, context)
        while True:
            context.check()
            asked.set()
            time.sleep(0.01)

    queue.put(looks, "7")
    worker = queue.bench.worker(renew_s=0.1)
    attempt = Running(lambda: queue.run(worker))
    assert asked.wait(20)
    tasks.cancel(queue.bench.conn, queue.task_id)
    assert attempt.answer() == "lease lost"
    assert (queue.kept(), queue.endings()) == ([], [(1, "cancelled", "nothing")])


# --- visibility ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> list[Attempt]:
    """Attempts that a keeper took for stuck: it tells, and ends no process, which would be this one."""
    told: list[Attempt] = []
    monkeypatch.setattr(WorkerProcess, "_end_stalled", lambda self, attempt: told.append(attempt))
    return told


def test_a_function_that_tells_of_no_progress_within_its_visibility_is_stuck(queue: Queue, stalled: list[Attempt]) -> None:
    queue.put(lambda payload: wait_until(lambda: stalled, 20) and None, visibility_s=1.0)
    started_s = time.monotonic()
    assert queue.run() == "succeeded"
    assert stalled[0].lease.task_id == queue.task_id
    assert 1.0 < time.monotonic() - started_s < 5.0  # and not the 120 s of the settings, looked at every 15 s


def test_progress_and_a_running_statement_keep_an_attempt_visible(queue: Queue, stalled: list[Attempt]) -> None:
    def works(payload: Any, context: protheon.TaskContext) -> None:
        for _ in range(5):
            time.sleep(0.3)
            context.progress()
        context.connection.execute("SELECT pg_sleep(1.5)")

    queue.put(works, visibility_s=1.0)
    assert queue.run() == "succeeded"
    assert stalled == []


@pytest.mark.slow
def test_a_copy_is_progress_while_something_is_written_and_a_function_that_hangs_in_it_is_stuck(
    queue: Queue, stalled: list[Attempt]
) -> None:
    before: list[int] = []

    def copies(payload: Any, context: protheon.TaskContext) -> None:
        with context.connection.cursor().copy("COPY public.kept FROM STDIN") as copy:
            for _ in range(6):
                time.sleep(0.25)
                copy.write(b"7\n")
            before.append(len(stalled))
            wait_until(lambda: stalled, 10)

    queue.put(copies, visibility_s=1.0)
    assert queue.run() == "succeeded"
    assert before == [0]
    assert queue.kept() == [7] * 6


def test_progress_keeps_the_transaction_of_a_function_that_computes_for_long(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends a transaction whose client says nothing for long: here for half a second."""

    def computes(payload: Any, context: protheon.TaskContext) -> None:
        keep(payload, context)
        context.connection.execute("SET LOCAL idle_in_transaction_session_timeout = '500ms'")
        for _ in range(10):
            time.sleep(0.1)
            context.progress()

    queue.put(computes, "7")
    assert queue.run(queue.bench.worker(renew_s=0.1)) == "succeeded"
    assert queue.kept() == [7]


def test_the_keeper_looks_at_an_attempt_with_a_short_visibility_though_it_renews_seldom(bench: Bench) -> None:
    told = threading.Event()
    keeper = LeaseKeeper(bench.url, lease_s=60.0, renew_s=15.0, stall_s=120.0, on_stall=lambda attempt: told.set())
    with keeper.held(Lease(1, 1, 60.0)):
        with keeper.held(Lease(2, 1, 60.0), 1.0):
            assert told.wait(5)
        told.clear()
        assert not told.wait(1.2)
