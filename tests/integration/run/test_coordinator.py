"""The coordinator's own steps on a real PostgreSQL, called one by one: no Dask, no splitters."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.config import Settings
from protheon_dask.errors import LeadershipLost, LedgerUnavailable
from protheon_dask.ledger import leadership, runs, verbs
from protheon_dask.ledger.connect import connect
from protheon_dask.model import Cost, Dispatch, Failed, Outcome, RunState, Seen, SplitState, Worker
from protheon_dask.run import coordinator as coordinating
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.dask_link import Answered, DaskLink, WorkerGone, WorkerSeen
from protheon_dask.run.stuck import StuckWorkers
from protheon_dask.run.tasks import NOT_CLAIMED
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.cluster import ask, wait_until
from tests.integration.ledger.test_verbs import manifest, submit
from tests.integration.run.conftest import Bench, Running


@dataclass
class Lead:
    """A coordinator that leads, with one run of one load of one chunk."""

    url: str
    coordinator: Coordinator
    conn: psycopg.Connection
    run_id: int
    load_id: int
    task_id: int

    def claim(self) -> Seen:
        """Let a worker open the task's first attempt."""
        assert verbs.claim(self.conn, Seen(self.task_id, 0), Worker(uuid4(), "w", "h"), uuid4(), 60.0)
        return Seen(self.task_id, 1)

    def endings(self) -> list[tuple[str, str]]:
        return ask(self.url, "SELECT outcome, cost FROM protheon.attempt WHERE ended_at IS NOT NULL ORDER BY attempt_no")


@pytest.fixture
def lead(ledger_database: str, tmp_path: Path) -> Iterator[Lead]:
    coordinator = Coordinator(Settings(), ledger_database, "tcp://127.0.0.1:9", ChunkStore(tmp_path / "workspace", 1 << 30), uuid4(), 1)
    with psycopg.connect(ledger_database, autocommit=True) as conn:
        assert coordinator.start_leading(ephemeral=False)
        run_id, joined = submit(conn)
        task_id = verbs.enqueue(conn, coordinator._epoch, joined.load_id, manifest(1))
        yield Lead(ledger_database, coordinator, conn, run_id, joined.load_id, task_id)
        coordinator._ledger.close()


def test_a_process_that_is_gone_is_not_forgotten_while_its_row_is_locked(lead: Lead) -> None:
    lead.coordinator._gone[lead.claim()] = True
    with psycopg.connect(lead.url) as holder:
        holder.execute("SELECT FROM protheon.task WHERE id = %s FOR UPDATE", (lead.task_id,))
        lead.coordinator._expire(time.monotonic())
        assert lead.endings() == []

    lead.coordinator._expire(time.monotonic())
    assert lead.endings() == [("crashed", "crash")]
    assert lead.coordinator._gone == {}


def test_what_an_outage_interrupts_is_done_after_it(lead: Lead) -> None:
    lead.coordinator._gone[lead.claim()] = True
    lead.coordinator.count_sent(lead.task_id, 70)
    lead.coordinator._ledger.close()
    for step in (lambda: lead.coordinator._expire(time.monotonic()), lead.coordinator._write_sent):
        with pytest.raises(psycopg.OperationalError):
            step()

    lead.coordinator._conn = connect(lead.url, application="test")
    lead.coordinator._expire(time.monotonic())
    for _ in range(2):  # once is enough
        lead.coordinator._write_sent()
    assert lead.endings() == [("crashed", "crash")]
    assert ask(lead.url, "SELECT wire_bytes FROM protheon.run WHERE id = %s", lead.run_id) == [(70,)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinating, "OUTAGE_S", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_session_that_only_our_side_lost_is_ended_and_the_lead_taken_anew(lead: Lead) -> None:
    epoch, lost = lead.coordinator._epoch, lead.coordinator._ledger
    lead.coordinator._conn = None  # the server keeps the session: it has heard nothing
    lead.coordinator._wait_for_ledger(LedgerUnavailable("cut"))
    assert lead.coordinator._epoch == epoch + 1
    with pytest.raises(psycopg.OperationalError):
        lost.execute("SELECT 1")


@pytest.mark.usefixtures("impatient")
def test_who_is_turned_away_by_another_transaction_keeps_the_lead(lead: Lead, caplog: pytest.LogCaptureFixture) -> None:
    """PostgreSQL is there: to lead anew would fence out all that is under way, and let nothing expire for the time of a lease."""
    coordinator, conn, epoch = lead.coordinator, lead.coordinator._ledger, lead.coordinator._epoch
    conn.execute("SET lock_timeout = '50ms'")
    with psycopg.connect(lead.url) as other:
        other.execute("SELECT FROM protheon.leadership FOR UPDATE")
        running = Running(coordinator.run)
        wait_until(lambda: [record for record in caplog.records if record.message.startswith("ledger.")])
    runs.end_run(lead.conn, lead.run_id, RunState.CANCELLED, "by hand")
    coordinator.wake()
    wait_until(lambda: ask(lead.url, "SELECT 1 FROM protheon.task WHERE state = 'cancelled'"))
    assert {record.message for record in caplog.records if record.message.startswith("ledger.")} == {"ledger.turned_away"}
    assert (coordinator._ledger, coordinator._epoch) == (conn, epoch)
    coordinator.stop()
    running.answer()


def test_a_broker_that_leads_by_now_is_left_alone(lead: Lead) -> None:
    lead.coordinator._ledger.close()
    with psycopg.connect(lead.url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", (leadership.ADVISORY_CLASS, leadership.LOCK_LEADERSHIP))
        assert leadership.take(other, uuid4())
        with pytest.raises(LeadershipLost):
            lead.coordinator._wait_for_ledger(LedgerUnavailable("cut"))
        other.execute("SELECT 1")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_refuses_us_for_a_while_is_still_away(lead: Lead, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [lead.url + "_that_is_gone", lead.url]
    monkeypatch.setattr(coordinating, "connect", lambda _, application: connect(urls.pop(0), application=application))
    epoch = lead.coordinator._epoch
    lead.coordinator._wait_for_ledger(LedgerUnavailable("cut"))
    assert lead.coordinator._epoch == epoch + 1
    assert urls == []


def test_a_round_gives_a_load_of_a_cancelled_run_to_the_run_that_waits(lead: Lead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead.coordinator, "_dispatch", lambda: None)  # there is no Dask
    runs.split_ended(lead.conn, lead.coordinator._epoch, lead.load_id, SplitState.COMPLETE, n_chunks=1)
    waiting, _ = submit(lead.conn)
    runs.end_run(lead.conn, lead.run_id, RunState.CANCELLED, "by hand")  # while the other attached: it handed nothing over
    lead.coordinator._round()
    assert ask(lead.url, "SELECT owner_run_id FROM protheon.load") == [(waiting,)]
    assert ask(lead.url, "SELECT state FROM protheon.task") == [("ready",)]
    assert ask(lead.url, "SELECT state FROM protheon.run WHERE id = %s", waiting) == [("running",)]


def test_a_broker_that_takes_anothers_place_goes_on_with_its_runs_and_any_other_interrupts_them(lead: Lead, tmp_path: Path) -> None:
    lead.conn.execute("UPDATE protheon.run SET ephemeral = true")
    attempt = lead.claim()
    told = []
    for goes_on in (True, False):
        lead.coordinator._ledger.close()
        store = ChunkStore(tmp_path / "workspace", 1 << 30)
        lead.coordinator = Coordinator(Settings(), lead.url, "tcp://127.0.0.1:9", store, uuid4(), 1)
        assert lead.coordinator.start_leading(ephemeral=True, goes_on=goes_on)
        told.append((ask(lead.url, "SELECT state FROM protheon.run"), lead.endings()))
        assert lead.coordinator._unanswered == ({attempt.task_id} if goes_on else set())
    assert told == [([("running",)], []), ([("cancelled",)], [("cancelled", "nothing")])]
    lead.coordinator._ledger.close()


def test_a_start_that_fails_under_way_does_not_shut_out_the_next_one(ledger_database: str, tmp_path: Path) -> None:
    url = f"{ledger_database}?options=-c%20lock_timeout%3D50"
    coordinator = Coordinator(Settings(), url, "tcp://127.0.0.1:9", ChunkStore(tmp_path / "workspace", 1 << 30), uuid4(), 1)
    with psycopg.connect(ledger_database) as other:
        other.execute("LOCK TABLE protheon.run")
        with pytest.raises(LedgerUnavailable):
            coordinator.start_leading(ephemeral=False, goes_on=True)
    assert wait_until(lambda: coordinator.start_leading(ephemeral=False, goes_on=True))  # its session ends a moment later
    coordinator._ledger.close()


def test_a_submission_that_a_broker_did_not_finish_may_be_repeated_under_its_name(lead: Lead) -> None:
    lead.conn.execute("UPDATE protheon.run SET state = 'queued', request_id = 'mine' WHERE id = %s", (lead.run_id,))
    assert runs.abandon_queued(lead.conn) == [lead.run_id]
    assert runs.run_of_request(lead.conn, "mine") is None


def test_a_scheduler_that_says_nothing_holds_up_no_round(lead: Lead) -> None:
    """It accepts connections and answers none, as a frozen one does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lead.coordinator._dask = DaskLink(f"tcp://127.0.0.1:{silent.getsockname()[1]}", lead.coordinator.tell)
        for _ in range(3):
            began_s = time.monotonic()
            lead.coordinator.wake()
            lead.coordinator._round()
            assert time.monotonic() - began_s < 1.0
        assert lead.coordinator.waiting_for is not None
        assert lead.coordinator.waiting_for.startswith("the Dask scheduler does not answer: ")
        since_at = lead.coordinator.waiting_since_at
        with lead.conn.transaction():
            runs.cancel_run(lead.conn, lead.run_id, "by hand")
        lead.coordinator.wake()
        lead.coordinator._round()
        assert ask(lead.url, "SELECT state FROM protheon.task") == [("cancelled",)]
        assert lead.coordinator.waiting_since_at == since_at
        lead.coordinator._dask.close()


def test_an_answer_to_one_copy_of_a_dispatch_is_not_taken_for_the_other(lead: Lead) -> None:
    """A retry that no other host took in time is with Dask twice."""
    first, again = (Dispatch(lead.task_id, 0, "ingest", copy_no) for copy_no in (0, 1))
    lead.coordinator._dispatched[lead.task_id] = again
    restarted: list[WorkerSeen] = []
    lead.coordinator._stuck = stuck = StuckWorkers(0.0, restarted.append)
    worker = WorkerSeen("tcp://1:1", "w", "h", uuid4(), 1)
    assert worker.process_uuid is not None
    stuck.expired(Seen(lead.task_id, 1), worker.process_uuid, 0.0, again)
    lead.coordinator._take(Answered(first, NOT_CLAIMED))
    lead.coordinator._take(WorkerGone(first, "another", nanny_lives=False))
    assert lead.coordinator._dispatched == {lead.task_id: again}
    stuck.settle(lead.conn, [worker], 1.0)
    assert restarted == [worker]


def test_the_file_of_a_chunk_that_a_broker_before_dispatched_goes_when_it_is_loaded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask tells the new one nothing of it."""
    bench.submit("".join(f"{n}\n" for n in range(20)))
    worker = bench.worker()
    claimed = verbs.claim(bench.conn, Seen(bench.task_ids[0], 0), Worker(uuid4(), "w", "h"), uuid4(), 60.0)
    assert claimed is not None
    bench.conn.execute("SELECT pg_advisory_unlock_all()")
    store = ChunkStore(bench.directory / "workspace", 1 << 20)
    coordinator = Coordinator(Settings(), bench.url, "tcp://127.0.0.1:9", store, uuid4(), 1)
    monkeypatch.setattr(coordinator, "_dispatch", lambda: None)
    assert coordinator.start_leading(ephemeral=False)
    coordinator.wake()
    coordinator._round()
    assert len(list(store.directory.rglob("*.zst"))) == 2
    verbs.release(bench.conn, claimed.lease, Failed(Cost.NOTHING, "T", "test"), Outcome.RELEASED, 0.0)
    assert worker.run(bench.dispatch(0)) == "succeeded"
    coordinator.wake()
    coordinator._round()
    assert len(list(store.directory.rglob("*.zst"))) == 1
    coordinator._dask.close()
    coordinator._ledger.close()
