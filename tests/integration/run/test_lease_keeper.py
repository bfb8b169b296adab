"""The lease keeper against a real ledger: it renews what is ours, severs what is not, and tells of what stands still."""

from __future__ import annotations

import threading
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.errors import LeaseLost
from protheon_dask.ledger import verbs
from protheon_dask.ledger.connect import connect
from protheon_dask.model import Lease
from protheon_dask.run.keeper import Attempt, LeaseKeeper
from tests.fixtures.cluster import wait_until
from tests.fixtures.postgres_proxy import PostgresProxy
from tests.integration.run.conftest import Bench

RENEW_S = 0.05


@pytest.fixture
def lease(bench: Bench) -> Lease:
    bench.submit("1\n")
    claimed = bench.worker()._claim(bench.dispatch(), uuid4())
    assert claimed is not None
    return claimed.lease


class Stalls:
    def __init__(self) -> None:
        self.told: list[Attempt] = []
        self.any = threading.Event()

    def __call__(self, attempt: Attempt) -> None:
        self.told.append(attempt)
        self.any.set()


def keeper(url: str, stalls: Stalls | None = None, stall_s: float = 60.0) -> LeaseKeeper:
    return LeaseKeeper(url, lease_s=30.0, renew_s=RENEW_S, stall_s=stall_s, on_stall=stalls or Stalls())


def lease_until(bench: Bench) -> object:
    return bench.ask("SELECT lease_until_at FROM protheon.task")


def test_a_lease_is_renewed_as_long_as_it_is_held_and_not_after(bench: Bench, lease: Lease) -> None:
    with keeper(bench.url).held(lease):
        before = lease_until(bench)
        wait_until(lambda: lease_until(bench) != before)
        again = lease_until(bench)
        wait_until(lambda: lease_until(bench) != again)
    wait_until(lambda: bench.ask("SELECT 1 FROM pg_stat_activity WHERE application_name = 'protheon-lease' AND state = 'idle'"))
    verbs.renew(bench.conn, [lease], 1_000.0)  # one that was under way has passed this
    last = lease_until(bench)
    threading.Event().wait(5 * RENEW_S)
    assert lease_until(bench) == last


def test_a_lease_that_is_lost_severs_the_data_connection_in_the_middle_of_a_statement(bench: Bench, lease: Lease) -> None:
    with keeper(bench.url).held(lease) as attempt, psycopg.connect(bench.url) as gate:
        gate.execute("SELECT pg_advisory_xact_lock(1)")
        conn = attempt.connection = connect(bench.url, application="protheon-worker")
        waiting: list[Exception] = []

        def wait() -> None:
            try:
                conn.execute("SELECT pg_advisory_lock(1)")
            except psycopg.OperationalError as exc:
                waiting.append(exc)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: bench.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"))
        bench.expire()
        thread.join(10)
        assert len(waiting) == 1
        with pytest.raises(LeaseLost):
            attempt.check()


def test_a_lease_whose_run_was_cancelled_is_lost(bench: Bench, lease: Lease) -> None:
    with keeper(bench.url).held(lease) as attempt:
        bench.conn.execute("UPDATE protheon.run SET state = 'cancelled', ended_at = now()")
        wait_until(lambda: attempt.is_lost)


def test_a_row_that_is_locked_is_not_lost(bench: Bench, lease: Lease) -> None:
    with keeper(bench.url).held(lease) as attempt:
        before = lease_until(bench)
        wait_until(lambda: lease_until(bench) != before)
        with psycopg.connect(bench.url) as completing:
            completing.execute("SELECT FROM protheon.task FOR NO KEY UPDATE")
            locked_at = lease_until(bench)
            threading.Event().wait(5 * RENEW_S)
            assert not attempt.is_lost
            assert lease_until(bench) == locked_at
        wait_until(lambda: lease_until(bench) != locked_at)


def test_an_outage_of_postgres_loses_nothing_and_is_made_up_for(bench: Bench, lease: Lease) -> None:
    with PostgresProxy(bench.url) as proxy:
        proxy.is_away = True
        with keeper(proxy.url).held(lease) as attempt:
            before = lease_until(bench)
            wait_until(lambda: proxy.refused >= 2)
            assert not attempt.is_lost
            proxy.is_away = False
            wait_until(lambda: lease_until(bench) != before)
            assert not attempt.is_lost


def test_an_attempt_that_stands_still_is_told_of(bench: Bench, lease: Lease) -> None:
    stalls = Stalls()
    with keeper(bench.url, stalls, stall_s=0.2).held(lease) as attempt:
        assert stalls.any.wait(10)
    assert stalls.told[0] is attempt


class Slept(threading.Event):
    """An event on which the second wait takes pause_s longer than was asked for: the machine slept."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s, self.n_waits = pause_s, 0
        self.is_over = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        answer = super().wait(timeout)
        self.n_waits += 1
        if self.n_waits == 2:
            threading.Event().wait(self.pause_s)
            self.is_over.set()
        return answer


def test_a_machine_that_slept_for_longer_than_the_stall_time_makes_no_stall(
    bench: Bench, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leases are renewed; what stands still after that is told of as ever."""
    stalls, slept = Stalls(), Slept(1.0)
    keeping = keeper(bench.url, stalls, stall_s=0.8)
    monkeypatch.setattr(keeping, "_sooner", slept)
    with keeping.held(lease):
        wait_until(lambda: slept.n_waits == 2)
        before = lease_until(bench)
        assert slept.is_over.wait(10)
        wait_until(lambda: lease_until(bench) != before or bool(stalls.told))
        assert not stalls.told
        assert stalls.any.wait(10)


def test_nothing_stalls_while_postgres_is_away_and_it_is_judged_afterwards(bench: Bench, lease: Lease) -> None:
    stalls = Stalls()
    with PostgresProxy(bench.url) as proxy:
        proxy.is_away = True
        with keeper(proxy.url, stalls, stall_s=2 * RENEW_S).held(lease):
            wait_until(lambda: proxy.refused >= 6)  # each a renewal later than the one before
            assert not stalls.told
            proxy.is_away = False
            assert stalls.any.wait(10)
