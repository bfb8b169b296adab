"""One worker process against a real ledger, broker and database: how attempts are opened, and what each ending costs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partialmethod
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.config import Settings
from protheon_dask.ledger import verbs
from protheon_dask.ledger.verbs import Claimed
from protheon_dask.model import Dispatch, Failed, Lease
from protheon_dask.pipelines.lines import LineTransformer
from protheon_dask.pipelines.table import BatchRows
from protheon_dask.policy import RejectLimit
from protheon_dask.run import worker
from protheon_dask.run.keeper import Attempt, LeaseKeeper
from protheon_dask.run.tasks import REFUSED
from tests.fixtures.cluster import wait_until
from tests.fixtures.postgres_proxy import PostgresProxy
from tests.integration.run.conftest import KEY, LIMITS, Bench, Running

TEN = "".join(f"{n}\n" for n in range(10))


def test_a_chunk_is_loaded_once_and_its_run_is_accounted_for(bench: Bench) -> None:
    bench.submit(TEN + "10\nnot a number\n\n")
    assert bench.load_all(bench.worker()) == ["succeeded", "succeeded"]
    assert bench.numbers() == list(range(11))
    assert bench.endings(0) == [(1, "succeeded", "nothing")]
    counts = bench.ask("SELECT lines, loaded, rejected, blank FROM protheon.attempt ORDER BY task_id")
    assert counts == [(10, 10, 0, 0), (3, 1, 1, 1)]


@pytest.mark.parametrize(("broken", "told"), [("lost", "9 are loaded, 0 filtered, 0"), ("twice", "10 are loaded, 1 filtered, 0")])
def test_a_transformer_that_loses_a_line_or_judges_it_twice_loads_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: str, told: str
) -> None:
    def transform(self: LineTransformer, lines: Sequence[bytes], line_nos: Sequence[int]) -> BatchRows:
        batch = whole(self, lines, line_nos)
        if broken == "lost":
            [table] = batch.tables
            del table.rows[3]
            table.ends[3:] = [end - 1 for end in table.ends[3:]]
        else:
            batch.filtered.append(3)
        return batch

    whole = LineTransformer.transform
    monkeypatch.setattr(LineTransformer, "transform", transform)
    bench.submit(TEN)
    assert bench.worker().run(bench.dispatch()) == "failed"
    [(error_class, message)] = bench.ask("SELECT error_class, message FROM protheon.attempt")
    assert error_class == "InvariantError"
    assert told in message
    assert bench.numbers() == []


def test_asking_twice_with_one_token_opens_one_attempt(bench: Bench) -> None:
    bench.submit(TEN)
    worker, token = bench.worker(), uuid4()
    dispatch = bench.dispatch()
    first, again = worker._claim(dispatch, token), worker._claim(dispatch, token)
    assert first == again
    assert bench.endings() == [(1, None, None)]


def test_who_loses_the_race_does_nothing(bench: Bench) -> None:
    bench.submit(TEN)
    dispatch = bench.dispatch()
    assert bench.worker().run(dispatch) == "succeeded"
    assert bench.worker().run(dispatch) == "not claimed"
    assert bench.worker().run(Dispatch(10**9, 0, "ingest")) == "not claimed"
    assert bench.numbers() == list(range(10))


@pytest.mark.parametrize(
    ("body", "word", "error_class", "told"),
    [
        ("raise MemoryError", "failed", "MemoryError", "MemoryError"),
        ("import a_module_that_is_not_there", "misfit", "ModuleNotFoundError", "a_module_that_is_not_there"),
        ("from math import no_such_name", "misfit", "ImportError", "no_such_name"),
    ],
)
def test_what_fails_outside_a_line_costs_a_failure_with_its_traceback(
    bench: Bench, body: str, word: str, error_class: str, told: str
) -> None:
    bench.submit(TEN, body=body)
    assert bench.worker().run(bench.dispatch()) == word
    assert bench.endings() == [(1, "failed", "failure")]
    [(found, message, traceback)] = bench.ask("SELECT error_class, message, traceback FROM protheon.attempt")
    assert found == error_class
    assert told in message
    assert "Traceback (most recent call last)" in traceback
    assert body in traceback or "numbers" in traceback
    assert bench.numbers() == []


@pytest.mark.slow
def test_a_task_that_keeps_failing_waits_longer_each_time_and_is_dead_at_the_fifth(bench: Bench) -> None:
    bench.submit(TEN, body="raise MemoryError")
    worker, pauses_s = bench.worker(), []
    for _ in range(4):
        assert worker.run(bench.dispatch()) == "failed"
        assert worker.run(bench.dispatch()) == "not claimed"  # it is not due
        [(pause_s,)] = bench.ask(
            "SELECT extract(epoch FROM task.ready_at - attempt.ended_at)::float8 FROM protheon.task JOIN protheon.attempt"
            " ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no"
        )
        pauses_s.append(pause_s)
        bench.make_due()
    assert [pause_s == pytest.approx(2.0 * 2**n, rel=0.11, abs=0.1) for n, pause_s in enumerate(pauses_s)] == [True] * 4, pauses_s

    assert bench.state() == "ready"
    assert worker.run(bench.dispatch()) == "failed"
    assert bench.state() == "dead"
    assert bench.ask("SELECT task_id, attempt_no, reason, replayed_at FROM protheon.dead_letter") == [
        (bench.task_ids[0], 5, "failed 5 times", None)
    ]
    bench.make_due()
    assert worker.run(bench.dispatch()) == "not claimed"


def test_a_missing_table_pauses_the_run_at_no_cost(bench: Bench) -> None:
    bench.submit(TEN)
    bench.conn.execute("DROP TABLE public.numbers")
    assert bench.worker().run(bench.dispatch()) == "released"
    assert bench.endings() == [(1, "released", "nothing")]
    state, reason = bench.run_state()
    assert state == "paused"
    assert reason is not None
    assert "public.numbers" in reason


def test_a_table_dropped_under_a_worker_that_knew_it_pauses_the_run_at_no_cost(bench: Bench) -> None:
    bench.submit(TEN + TEN)
    worker = bench.worker()
    assert worker.run(bench.dispatch(0)) == "succeeded"
    bench.conn.execute("DROP TABLE public.numbers")
    assert worker.run(bench.dispatch(1)) == "released"
    assert bench.endings(1) == [(1, "released", "nothing")]
    assert bench.run_state()[0] == "paused"


def test_a_ledger_that_refuses_the_claim_is_answered_with_its_reason_and_nothing_is_claimed(bench: Bench) -> None:
    bench.submit(TEN)
    role = f"r{uuid4().hex[:8]}"
    bench.conn.execute(f"CREATE ROLE {role} LOGIN")
    bench.conn.execute(f"GRANT USAGE ON SCHEMA protheon TO {role}")
    try:
        word = bench.worker(bench.url.replace("postgres@", f"{role}@")).run(bench.dispatch())
        assert word.startswith(REFUSED)
        assert "permission denied" in word
        assert bench.endings() == []
    finally:
        bench.conn.execute(f"DROP OWNED BY {role}")
        bench.conn.execute(f"DROP ROLE {role}")


def test_a_right_that_was_withdrawn_pauses_the_run_at_no_cost(bench: Bench) -> None:
    bench.submit(TEN)
    role = f"r{uuid4().hex[:8]}"
    bench.conn.execute(f"CREATE ROLE {role} LOGIN")
    bench.conn.execute(f"GRANT USAGE ON SCHEMA protheon TO {role}")
    bench.conn.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA protheon TO {role}")
    bench.conn.execute(f"GRANT SELECT ON public.numbers TO {role}")
    try:
        url = bench.url.replace("postgres@", f"{role}@")
        assert bench.worker(url).run(bench.dispatch()) == "released"
        assert bench.endings() == [(1, "released", "nothing")]
        state, reason = bench.run_state()
        assert state == "paused"
        assert reason is not None
        assert "permission denied" in reason
    finally:
        bench.conn.execute(f"DROP OWNED BY {role}")
        bench.conn.execute(f"DROP ROLE {role}")


@pytest.mark.slow
def test_a_lock_that_is_not_given_in_time_costs_nothing(bench: Bench) -> None:
    bench.submit(TEN)
    worker = bench.worker(lease_s=3, renew_s=1, exit_grace_s=1, stall_s=3)
    with psycopg.connect(bench.url) as other:
        other.execute("LOCK TABLE public.numbers IN SHARE MODE")
        assert worker.run(bench.dispatch()) == "released"
    assert bench.endings() == [(1, "released", "nothing")]
    assert bench.ask("SELECT sqlstate FROM protheon.attempt") == [("55P03",)]
    bench.make_due()
    assert worker.run(bench.dispatch()) == "succeeded"
    assert bench.numbers() == list(range(10))


def test_an_attempt_whose_forerunner_still_has_its_transaction_costs_nothing(bench: Bench) -> None:
    bench.submit(TEN)
    with psycopg.connect(bench.url) as forerunner:
        forerunner.execute("SELECT pg_advisory_xact_lock((x'50524F'::bigint << 40) | %s)", (bench.task_ids[0],))
        assert bench.worker(advisory_wait_s=0.2).run(bench.dispatch()) == "released"
    assert bench.endings() == [(1, "released", "nothing")]


def test_a_deadlock_costs_nothing_and_the_next_attempt_loads(bench: Bench) -> None:
    """The worker has place 1, another waits for that and has place 2, and the worker's wait for it closes the circle."""
    bench.submit(TEN)
    bench.conn.execute("CREATE TABLE public.place (id int PRIMARY KEY)")
    bench.conn.execute("INSERT INTO public.place VALUES (1), (2)")
    bench.conn.execute(
        """CREATE FUNCTION public.meet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE public.place SET id = id WHERE id = 1;
             PERFORM pg_advisory_xact_lock_shared(1);
             UPDATE public.place SET id = id WHERE id = 2;
             RETURN NEW; END $$"""
    )
    bench.conn.execute("CREATE TRIGGER meet BEFORE INSERT ON public.numbers FOR EACH ROW EXECUTE FUNCTION public.meet()")
    worker = bench.worker()
    with psycopg.connect(bench.url) as gate, psycopg.connect(bench.url) as other:
        gate.execute("SELECT pg_advisory_xact_lock(1)")
        other.execute("SET deadlock_timeout = '10min'")  # so that the worker is the one to find out
        other.execute("UPDATE public.place SET id = id WHERE id = 2")
        attempt = Running(lambda: worker.run(bench.dispatch()))
        wait_until(lambda: bench.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"))
        waiting = Running(lambda: other.execute("UPDATE public.place SET id = id WHERE id = 1"))
        wait_until(lambda: bench.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid'"))
        gate.rollback()
        assert attempt.answer() == "released"
        waiting.answer()
    assert bench.ask("SELECT outcome, cost, sqlstate FROM protheon.attempt") == [("released", "nothing", "40P01")]
    bench.make_due()
    assert worker.run(bench.dispatch()) == "succeeded"
    assert bench.numbers() == list(range(10))


def test_a_serialization_failure_costs_nothing(bench: Bench) -> None:
    bench.submit(TEN)
    bench.conn.execute(
        """CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'could not serialize' USING ERRCODE = '40001'; END $$"""
    )
    bench.conn.execute("CREATE TRIGGER refuse BEFORE INSERT ON public.numbers FOR EACH ROW EXECUTE FUNCTION public.refuse()")
    assert bench.worker().run(bench.dispatch()) == "released"
    assert bench.ask("SELECT outcome, cost, sqlstate FROM protheon.attempt") == [("released", "nothing", "40001")]
    assert bench.ask("SELECT failures, crashes, losses FROM protheon.task") == [(0, 0, 0)]


def test_a_backend_that_is_terminated_in_the_middle_costs_nothing(bench: Bench) -> None:
    bench.submit(TEN)
    worker = bench.worker()
    with psycopg.connect(bench.url) as other:
        other.execute("LOCK TABLE public.numbers IN SHARE MODE")
        attempt = Running(lambda: worker.run(bench.dispatch()))
        wait_until(
            lambda: bench.ask("SELECT 1 FROM pg_stat_activity WHERE application_name = 'protheon-worker' AND wait_event_type = 'Lock'")
        )
        bench.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'protheon-worker' AND wait_event_type = 'Lock'"
        )
        assert attempt.answer().startswith("outage: the PostgreSQL server, or an administrator, ended the connection")
    assert bench.endings() == [(1, "released", "nothing")]
    bench.make_due()
    assert worker.run(bench.dispatch()) == "succeeded"
    assert bench.numbers() == list(range(10))


def test_the_chunk_that_crosses_the_reject_limit_is_rolled_back_and_pauses_the_run(bench: Bench) -> None:
    bench.submit("x\n" * 4 + "".join(f"{n}\n" for n in range(6)) + "y\n" * 3 + "7\n" * 7, reject_limit_lines=6)
    worker = bench.worker()
    assert worker.run(bench.dispatch(0)) == "succeeded"  # 4 rejects
    assert worker.run(bench.dispatch(1)) == "released"  # 3 more
    state, reason = bench.run_state()
    assert state == "paused"
    assert reason is not None
    assert "7 of 20 lines are rejected" in reason
    assert bench.numbers() == list(range(6))
    assert bench.ask("SELECT count(*) FROM protheon.reject") == [(4,)]
    assert bench.endings(1) == [(1, "released", "nothing")]


def test_a_chunk_of_few_rejects_pauses_a_run_that_was_beyond_its_fraction_before_it_could_be_judged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 bad lines of the first 10 are too few to be judged; 1 of the next 10 is within the fraction, but the run is not."""
    monkeypatch.setattr(RejectLimit, "__init__", partialmethod(RejectLimit.__init__, min_lines=20))
    bench.submit("x\n" * 9 + "0\n" + "y\n" + "7\n" * 9)
    bench.conn.execute("UPDATE protheon.run SET reject_limit_fraction = 0.2")
    worker = bench.worker()
    assert worker.run(bench.dispatch(0)) == "succeeded"
    assert worker.run(bench.dispatch(1)) == "released"
    state, reason = bench.run_state()
    assert state == "paused"
    assert "10 of 20 lines are rejected" in (reason or "")
    assert bench.numbers() == [0]


def test_a_limit_that_is_just_reached_is_not_crossed(bench: Bench) -> None:
    bench.submit("x\n" * 4 + "1\n" * 6 + "y\n" * 2 + "7\n" * 8, reject_limit_lines=6)
    assert bench.load_all(bench.worker()) == ["succeeded", "succeeded"]
    assert bench.run_state()[0] == "running"


def test_a_chunk_without_its_file_is_asked_for_and_waited_for(bench: Bench) -> None:
    bench.submit(TEN)
    for path in bench.store.directory.glob("*/*.zst"):
        path.rename(path.with_suffix(".away"))
    attempt = Running(lambda: bench.worker().run(bench.dispatch()))
    wait_until(lambda: bench.wanted)
    assert bench.wanted[0].load_id == bench.load_id
    for path in bench.store.directory.glob("*/*.away"):
        path.rename(path.with_suffix(".zst"))
    assert attempt.answer() == "succeeded"
    assert bench.numbers() == list(range(10))


def test_an_outage_beyond_the_stall_time_is_no_stall_of_an_attempt_that_has_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper's connection lives, so that the keeper judges; its data connection is away for several stall times."""
    bench.submit(TEN, body="raise MemoryError")
    monkeypatch.setattr("protheon_dask.run.worker.OUTAGE_POLL_S", 0.05)
    with PostgresProxy(bench.url) as proxy:
        stalled: list[Attempt] = []
        worker = bench.worker(proxy.url)
        worker._keeper = LeaseKeeper(bench.url, lease_s=60.0, renew_s=0.1, stall_s=0.5, on_stall=stalled.append)
        end_once = worker._end_once

        def cut_off(claimed: Claimed, failed: Failed) -> str:
            if not proxy.is_away and not proxy.refused:
                proxy.is_away = True
                worker._drop_connection()
            return end_once(claimed, failed)

        monkeypatch.setattr(worker, "_end_once", cut_off)
        attempt = Running(lambda: worker.run(bench.dispatch()))
        wait_until(lambda: proxy.refused >= 20)
        proxy.is_away = False
        assert attempt.answer() == "failed"
        assert not stalled
        worker._drop_connection()
    assert bench.endings() == [(1, "failed", "failure")]


def test_a_batch_that_takes_longer_than_the_stall_time_makes_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the server end its transaction, which would be idle for longer than it may be, but for looks at the fence."""
    monkeypatch.setitem(LIMITS, "chunk_lines", 90)
    bench.submit("".join(f"{n}\n" for n in range(90)), body="import time; time.sleep(0.03)")
    stalled: list[Attempt] = []
    worker = bench.worker(lease_s=0.6, renew_s=0.15, exit_grace_s=0.1, stall_s=0.9)
    worker._keeper = LeaseKeeper(bench.url, lease_s=60.0, renew_s=0.1, stall_s=0.9, on_stall=stalled.append)
    looks: list[Lease] = []

    def check_fence(conn: psycopg.Connection, lease: Lease) -> None:
        looks.append(lease)
        look(conn, lease)

    look = verbs.check_fence
    monkeypatch.setattr(verbs, "check_fence", check_fence)
    assert worker.run(bench.dispatch()) == "succeeded"
    assert not stalled
    assert looks
    assert bench.numbers() == list(range(90))


def test_a_guest_is_the_same_worker_until_it_is_told_other_terms_and_then_nothing_of_it_is_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each broker tells its terms anew, and so does each new connection of one to the scheduler."""
    monkeypatch.setattr(worker, "_guest", None)
    monkeypatch.setattr(worker, "_guests", {})
    settings = Settings(database_url=bench.url, advisory_wait_s=5.0)

    def told(name: str) -> worker.WorkerProcess:
        worker.accept_guest(settings, {"PROTHEON_BROKER": bench.broker_address}, name, KEY)
        return worker.current_process()

    def keepers() -> int:
        return [thread.name for thread in threading.enumerate()].count("protheon-lease-keeper")

    def connections() -> list[tuple[int]]:
        names = ["protheon-worker", "protheon-lease"]
        return bench.ask("SELECT pid FROM pg_stat_activity WHERE application_name = ANY(%s) AND datname = current_database()", names)

    bench.submit(TEN + "10\n")
    before = keepers()
    first = told("theirs")
    assert first.run(bench.dispatch()) == "succeeded"
    assert told("theirs") is first
    assert keepers() == before + 1

    other = told("theirs, elsewhere")
    assert other is not first
    wait_until(lambda: keepers() == before and not connections())
    assert other.run(bench.dispatch(1)) == "succeeded"

    of_thread: list[worker.WorkerProcess] = []
    thread = threading.Thread(target=lambda: of_thread.append(worker.current_process()))
    thread.start()
    thread.join()
    assert of_thread[0] is not other
    assert worker.current_process() is other
    assert list(worker._guests) == [threading.current_thread()], "a thread that has ended has none"
    with worker.borrowed_process() as looked:
        assert looked is not other
    assert looked.broker._is_closed
    assert list(worker._guests) == [threading.current_thread()], "who only asks keeps nothing"
    other.close()
