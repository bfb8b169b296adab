"""Which chunk files a coordinator counts to the quota, puts aside and deletes. No Dask: nothing is dispatched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from protheon_dask.config import Settings
from protheon_dask.ledger import runs
from protheon_dask.ledger.migrate import migrate
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.cutting import Wanted
from protheon_dask.run.dask_link import WorkerSeen
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.cluster import wait_until
from tests.integration.run.conftest import Bench

LINES = "".join(f"{n}\n" for n in range(50))  # five chunks


@pytest.fixture
def coordinator(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    """Over the bench's ledger, whose lead the bench has given up; it finds the files when it takes the lead."""
    bench.conn.execute("SELECT pg_advisory_unlock_all()")
    store = ChunkStore(bench.directory / "workspace", 1 << 20)
    made = Coordinator(Settings(), bench.url, "tcp://127.0.0.1:1", store, uuid4(), 1)
    monkeypatch.setattr(made._dask, "workers", lambda: ())
    yield made
    made.cutting.splitters.stop_all()
    if made._conn is not None:
        made._conn.close()


def look(coordinator: Coordinator) -> None:
    """One round that is due."""
    coordinator.wake()
    coordinator._round()


def test_the_next_master_parks_the_files_of_a_paused_run(bench: Bench, coordinator: Coordinator) -> None:
    bench.submit(LINES)
    runs.pause_run(bench.conn, bench.run_id, "over the reject limit")

    assert coordinator.start_leading(ephemeral=False)

    store = coordinator.cutting.store
    assert store.live_bytes == 0
    assert store.parked_bytes == bench.store.live_bytes
    assert store.room_bytes == store.quota_bytes


def test_a_pause_frees_the_quota_and_only_tasks_that_dask_has_keep_their_files_live(bench: Bench, coordinator: Coordinator) -> None:
    bench.submit(LINES)
    assert coordinator.start_leading(ephemeral=False)
    store = coordinator.cutting.store
    look(coordinator)
    assert store.live_bytes == bench.store.live_bytes
    assert store.parked_bytes == 0

    coordinator._dispatched[bench.task_ids[0]] = bench.dispatch(0)
    runs.pause_run(bench.conn, bench.run_id, "over the reject limit")
    look(coordinator)

    [(first_bytes,)] = bench.ask("SELECT stored_bytes FROM protheon.chunk WHERE task_id = %s", bench.task_ids[0])
    assert (store.live_bytes, store.parked_bytes) == (first_bytes, bench.store.live_bytes - first_bytes)


def test_parked_files_count_again_when_their_tasks_go_to_dask(
    bench: Bench, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(LINES)
    runs.pause_run(bench.conn, bench.run_id, "over the reject limit")
    assert coordinator.start_leading(ephemeral=False)
    bench.conn.execute("UPDATE protheon.run SET state = 'running', state_reason = NULL")
    there = WorkerSeen("tcp://127.0.0.1:2", "w", "h", uuid4(), n_threads=4)
    monkeypatch.setattr(coordinator._dask, "workers", lambda: (there,))
    monkeypatch.setattr(coordinator._dask, "dispatch", lambda items, workers: None)

    coordinator._dispatch()

    assert len(coordinator._dispatched) == 5
    assert coordinator.cutting.store.live_bytes == bench.store.live_bytes
    assert coordinator.cutting.store.parked_bytes == 0


def test_clusters_over_two_ledgers_leave_each_others_files_alone(bench: Bench, coordinator: Coordinator, database: str) -> None:
    bench.submit(LINES)
    migrate(database)
    other = Coordinator(Settings(), database, "tcp://127.0.0.1:1", ChunkStore(bench.directory / "workspace", 1 << 20), uuid4(), 1)

    assert other.start_leading(ephemeral=False)
    assert other._conn is not None
    other._conn.close()

    assert coordinator.start_leading(ephemeral=False)
    assert coordinator.cutting.store.live_bytes == bench.store.live_bytes > 0


@pytest.mark.parametrize("paused_first", [False, True])
def test_the_files_of_a_cancelled_run_are_deleted(bench: Bench, coordinator: Coordinator, paused_first: bool) -> None:
    bench.submit(LINES)
    assert coordinator.start_leading(ephemeral=False)
    if paused_first:
        runs.pause_run(bench.conn, bench.run_id, "over the reject limit")
        look(coordinator)
        assert coordinator.cutting.store.parked_bytes > 0
    with bench.conn.transaction():
        runs.cancel_run(bench.conn, bench.run_id, "cancelled by hand")  # as a desk or a command does, on its own connection

    look(coordinator)

    assert (coordinator.cutting.store.live_bytes, coordinator.cutting.store.parked_bytes) == (0, 0)
    assert not list(coordinator.cutting.store.directory.rglob("*.zst"))


def test_a_source_that_could_not_be_read_is_tried_again_after_those_that_wait_for_their_first_turn(
    bench: Bench, coordinator: Coordinator
) -> None:
    """One splitter: sources whose servers take longer to fail than their pauses are would have it for ever."""
    for name in ("gone", "there"):
        (bench.directory / name).write_text(f"{LINES}{name}")
        bench.submit(bench.directory / name)
    [(gone, there)] = bench.ask("SELECT min(id), max(id) FROM protheon.load")
    bench.conn.execute("UPDATE protheon.load SET split_state = 'pending', n_chunks = NULL")
    (bench.directory / "gone").unlink()
    assert coordinator.start_leading(ephemeral=False)
    cutting = coordinator.cutting
    look(coordinator)
    assert cutting.splitters.loads == [gone]
    wait_until(lambda: not coordinator._inbox.empty())
    coordinator._take(coordinator._inbox.get())
    assert cutting.splitters.loads == []
    cutting._split_after[gone] = time.monotonic()  # its try took as long as the pause after it
    look(coordinator)
    assert cutting.splitters.loads == [there]


@pytest.mark.parametrize("end", ["pause", "cancel"])
def test_chunks_of_a_run_that_does_not_go_on_are_not_waited_for(bench: Bench, coordinator: Coordinator, end: str) -> None:
    bench.submit(LINES)
    assert coordinator.start_leading(ephemeral=False)
    coordinator.cutting.store.delete(bench.load_id, 1)
    coordinator.cutting.note_missing(coordinator._ledger, Wanted(bench.load_id, 1, 1))
    assert coordinator.cutting.without_file == bench.task_ids[:1]
    {"pause": runs.pause_run, "cancel": runs.cancel_run}[end](bench.conn, bench.run_id, "by hand")
    coordinator.cutting.work(coordinator._ledger)
    assert coordinator.cutting.without_file == []
    assert not coordinator.cutting.splitters.is_cutting(bench.load_id)


def test_chunks_that_a_dispatch_of_the_broker_before_loads_leave_no_file(bench: Bench, coordinator: Coordinator) -> None:
    """A worker may claim by what a broker that was killed had handed out, after the next one looked: nobody tells that one the end."""
    bench.submit(LINES)
    assert coordinator.start_leading(ephemeral=False)
    worker = bench.worker()
    assert {worker.run(bench.dispatch(n)) for n in range(5)} == {"succeeded"}

    look(coordinator)

    assert bench.ask("SELECT finished_at IS NOT NULL FROM protheon.load") == [(True,)]
    assert list(coordinator.cutting.store.directory.glob("*/*.zst")) == []
    assert coordinator.cutting.store.live_bytes == 0
