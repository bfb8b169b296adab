"""A COMMIT whose answer is lost, and an attempt that lost its task: rows exist once, whatever the worker believed.

Each promise is also tested against a worker that is broken on purpose: a test that such a worker passes would be worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from protheon_dask.ledger import transaction, verbs
from protheon_dask.run import completing, ingest
from protheon_dask.run.worker import WorkerProcess
from tests.fixtures.cluster import wait_until
from tests.fixtures.postgres_proxy import Loss, PostgresProxy
from tests.integration.run.conftest import Bench, Running

TEN = "".join(f"{n}\n" for n in range(10))


@pytest.fixture
def proxy(bench: Bench) -> Iterator[PostgresProxy]:
    with PostgresProxy(bench.url) as between:
        yield between


GATE = "SELECT pg_advisory_xact_lock(1)"
HELD_UP = """CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$"""


def hold_up_rows(bench: Bench) -> None:
    """Make each COPY wait, after its rows, for whoever holds the lock of GATE."""
    bench.conn.execute(HELD_UP)
    bench.conn.execute("CREATE TRIGGER hold_up AFTER INSERT ON public.numbers FOR EACH STATEMENT EXECUTE FUNCTION public.hold_up()")


def advisory_waiters(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.ask("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


def assert_loaded_once(bench: Bench, endings: list[tuple[int, str, str]]) -> None:
    """The chunk's rows are there once, and the ledger tells just this story."""
    assert bench.numbers() == list(range(10))
    assert bench.endings() == endings
    assert bench.state() == "succeeded"


# --- the answer to COMMIT is lost -------------------------------------------------------------------------------------------


def commit_without_answer(bench: Bench, proxy: PostgresProxy) -> None:
    bench.submit(TEN)
    worker = bench.worker(proxy.url)
    proxy.arm(Loss.ANSWER)
    word = worker.run(bench.dispatch())
    assert proxy.struck.is_set()
    assert word == "succeeded"
    assert_loaded_once(bench, [(1, "succeeded", "nothing")])
    assert worker.run(bench.dispatch()) == "not claimed"


def late_commit(bench: Bench, proxy: PostgresProxy) -> None:
    """The server has the COMMIT only after the worker has begun to ask what became of it."""
    bench.submit(TEN)
    worker = bench.worker(proxy.url)
    proxy.arm(Loss.LATE)
    attempt = Running(lambda: worker.run(bench.dispatch()))
    assert proxy.struck.wait(20)
    wait_until(lambda: advisory_waiters(bench), 5)
    proxy.let_go()
    assert attempt.answer() == "succeeded"
    assert_loaded_once(bench, [(1, "succeeded", "nothing")])


def test_a_commit_whose_answer_is_lost_is_found_to_have_happened(bench: Bench, proxy: PostgresProxy) -> None:
    commit_without_answer(bench, proxy)


def test_a_commit_that_arrives_late_is_waited_for(bench: Bench, proxy: PostgresProxy) -> None:
    late_commit(bench, proxy)


def test_a_commit_that_never_arrived_is_released_at_no_cost_and_loaded_by_the_next_attempt(bench: Bench, proxy: PostgresProxy) -> None:
    bench.submit(TEN)
    worker = bench.worker(proxy.url)
    proxy.arm(Loss.COMMIT)
    assert worker.run(bench.dispatch()).startswith("outage: ")
    assert proxy.struck.is_set()
    assert bench.numbers() == []
    assert bench.ask("SELECT failures, crashes, losses FROM protheon.task") == [(0, 0, 0)]
    bench.make_due()
    assert worker.run(bench.dispatch()) == "succeeded"
    assert_loaded_once(bench, [(1, "released", "nothing"), (2, "succeeded", "nothing")])


def test_a_commit_that_stays_out_is_ended_at_the_server_and_did_not_happen(
    bench: Bench, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "OLD_BACKEND_S", 0.5)
    bench.submit(TEN)
    worker = bench.worker(proxy.url)
    proxy.arm(Loss.LATE)
    assert worker.run(bench.dispatch()).startswith("outage: ")
    proxy.let_go()  # nobody is there to take it
    assert bench.numbers() == []
    bench.make_due()
    assert worker.run(bench.dispatch()) == "succeeded"
    assert_loaded_once(bench, [(1, "released", "nothing"), (2, "succeeded", "nothing")])


def test_while_postgres_is_away_the_outcome_of_a_commit_stays_open(bench: Bench, proxy: PostgresProxy) -> None:
    bench.submit(TEN + "x\n")
    worker = bench.worker(proxy.url)
    assert worker.run(bench.dispatch(1)) == "succeeded"  # its connection is open from now on
    proxy.arm(Loss.ANSWER)
    proxy.is_away = True
    attempt = Running(lambda: worker.run(bench.dispatch(0)))
    wait_until(lambda: proxy.refused >= 2)
    proxy.is_away = False
    assert attempt.answer() == "succeeded"
    assert_loaded_once(bench, [(1, "succeeded", "nothing")])


@pytest.mark.slow
def test_who_asks_what_became_of_its_commit_while_its_successor_is_at_work_leaves_it_in_peace(
    bench: Bench, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task's lock is the successor's by then: to wait for it, and to end whoever has it, would hit a live attempt."""
    monkeypatch.setattr(transaction, "OLD_BACKEND_S", 0.5)
    bench.submit(TEN + "x\n")
    first, second = bench.worker(proxy.url), bench.worker()
    assert first.run(bench.dispatch(1)) == "succeeded"  # its connection is open from now on
    hold_up_rows(bench)
    proxy.arm(Loss.COMMIT)
    proxy.is_away = True
    late = Running(lambda: first.run(bench.dispatch()))
    wait_until(lambda: proxy.refused)
    with psycopg.connect(bench.url) as gate:
        gate.execute(GATE)  # given as soon as the old transaction has ended
        bench.expire()
        dispatch = bench.dispatch()
        successor = Running(lambda: second.run(dispatch))
        wait_until(lambda: advisory_waiters(bench))
        proxy.is_away = False
        assert late.answer() == "lease lost"
        gate.rollback()
        assert successor.answer() == "succeeded"
    assert_loaded_once(bench, [(1, "expired", "loss"), (2, "succeeded", "nothing")])


# --- workers that are broken on purpose ---------------------------------------------------------------------------------------


def unfenced(name: str) -> bytes:
    """The ledger's statements without what fences them by the attempt."""
    text = real_statement(name).decode()
    if name == "complete":
        text = text.replace("AND state = 'running' AND attempt_no = %(attempt_no)s", "")
        text = text.replace("AND attempt.ended_at IS NULL", "").replace(
            "SET ended_at = coalesce(%(now)s, clock_timestamp()), outcome", "SET ended_at = clock_timestamp(), outcome"
        )
    if name == "fence":
        text = "SELECT 1 WHERE %(task_id)s::bigint IS NOT NULL AND %(attempt_no)s::integer IS NOT NULL"
    return text.encode()


real_statement = verbs.statement


def load_again_blindly(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes a lost connection for a lost transaction, and does its work once more at once."""
    real_load, done = ingest.load, []

    def remembered(work: ingest.ChunkWork, stored: Any, conn: Any, **options: Any) -> Any:
        done.append((work, stored))
        return real_load(work, stored, conn, **options)

    def again(lease: Any) -> None:
        work, stored = done[-1]
        stored.seek(0)
        conn = worker._connection()
        worker._begin(conn, work.attempt, work.clock)
        real_load(work, stored, conn)
        conn.execute("COMMIT")

    monkeypatch.setattr(ingest, "load", remembered)
    monkeypatch.setattr(worker, "_resolve", again)


def test_a_worker_that_loads_again_blindly_is_stopped_by_the_fence(
    bench: Bench, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(TEN)
    worker = bench.worker(proxy.url)
    load_again_blindly(worker, monkeypatch)
    proxy.arm(Loss.ANSWER)
    assert worker.run(bench.dispatch()) == "lease lost"
    assert_loaded_once(bench, [(1, "succeeded", "nothing")])


def test_a_blind_worker_without_a_fence_would_be_caught(bench: Bench, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    real_worker = Bench.worker

    def broken(self: Bench, url: str | None = None, **settings: Any) -> WorkerProcess:
        worker = real_worker(self, url, **settings)
        load_again_blindly(worker, monkeypatch)
        return worker

    monkeypatch.setattr(Bench, "worker", broken)
    monkeypatch.setattr(verbs, "statement", unfenced)
    monkeypatch.setattr(transaction, "statement", unfenced)
    with pytest.raises(AssertionError):
        commit_without_answer(bench, proxy)
    assert len(bench.numbers()) == 20


@pytest.mark.slow
def test_a_worker_that_only_looks_would_be_caught_by_the_late_commit(
    bench: Bench, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain look at the row is overtaken by the COMMIT that is on its way."""

    def look(url: str, lease: Any) -> verbs.Resolved:
        with psycopg.connect(url) as conn:
            row = conn.execute("SELECT state FROM protheon.task WHERE id = %s", (lease.task_id,)).fetchone()
        return verbs.Resolved(committed=row == ("succeeded",), still_ours=row == ("running",))

    monkeypatch.setattr(transaction, "resolve_commit", look)
    with pytest.raises(pytest.fail.Exception):  # it does not wait: nobody waits for the lock that the old transaction has
        late_commit(bench, proxy)
    proxy.let_go()


# --- the task is taken away in the middle of the work -------------------------------------------------------------------------


def taken_away(bench: Bench, how: str) -> None:
    """An attempt is in the middle of its COPY when its task is cancelled, or expires and is claimed by another worker."""
    bench.submit(TEN)
    hold_up_rows(bench)
    first, second = bench.worker(), bench.worker()
    with psycopg.connect(bench.url) as gate:
        gate.execute(GATE)
        attempt = Running(lambda: first.run(bench.dispatch()))
        wait_until(lambda: advisory_waiters(bench))
        successor = None
        if how == "cancelled":
            bench.conn.execute("UPDATE protheon.run SET state = 'cancelled', ended_at = now()")
            verbs.cancel(bench.conn)
        else:
            bench.expire()
            dispatch = bench.dispatch()
            successor = Running(lambda: second.run(dispatch))
            wait_until(lambda: len(advisory_waiters(bench)) == 2)  # the first at the gate, the successor for the task's lock
        gate.rollback()
        words = [attempt.answer(), None if successor is None else successor.answer()]
    if how == "cancelled":
        assert words == ["lease lost", None]
        assert bench.numbers() == []
        assert bench.endings() == [(1, "cancelled", "nothing")]
        assert bench.state() == "cancelled"
    else:
        assert words == ["lease lost", "succeeded"]
        assert_loaded_once(bench, [(1, "expired", "loss"), (2, "succeeded", "nothing")])


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_an_attempt_that_lost_its_task_in_the_middle_leaves_no_row(bench: Bench, how: str) -> None:
    taken_away(bench, how)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_completion_without_a_fence_would_be_caught(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "statement", unfenced)
    with pytest.raises(AssertionError):
        taken_away(bench, how)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_completion_in_another_transaction_than_the_rows_would_be_caught(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real_complete = completing.complete

    def in_two(work: ingest.ChunkWork, conn: Any, loaded: Any) -> None:
        conn.execute("COMMIT")
        conn.execute("BEGIN")
        real_complete(work, conn, loaded)

    monkeypatch.setattr(completing, "complete", in_two)
    with pytest.raises(AssertionError):
        taken_away(bench, how)
    assert bench.numbers() != []
