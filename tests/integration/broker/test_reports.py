"""Reports and pins over real gRPC: a reader who stops holds what others need for a while, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import pytest

from protheon_dask.broker import calls
from protheon_dask.broker import client as broker_client
from protheon_dask.broker.calls import POOL_THREADS
from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.peers import Peer
from protheon_dask.broker.pin_wire import PinRequest
from protheon_dask.broker.ports import StoredChunk
from protheon_dask.broker.run_service import REPORT_SHARE, REPORTS
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.wire import Report
from protheon_dask.errors import BrokerUnavailable
from tests.fixtures.broker import MIB, ChunkFolder, Runs
from tests.fixtures.cluster import wait_until

N_READERS = 6
ALONE = ("grpc.use_local_subchannel_pool", 1)
"""Clients of one process share no connection, as those of two do not."""
WANTED = Report("attempts", 1)


class Endless(Runs):
    """Reports without an end, and how many of them are open, as connections to a database would be."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.n_open = self.most_open = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def report(self, wanted: Report) -> Generator[str]:
        assert wanted == WANTED
        self.count(1)
        try:
            while self.may_go_on.wait(60):
                yield "x" * MIB
        finally:
            self.count(-1)

    def count(self, more: int) -> None:
        with self.lock:
            self.n_open += more
            self.most_open = max(self.most_open, self.n_open)


class Pins:
    """Cuts one source without an end, and tells when that was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def pin(self, request: PinRequest, peer: Peer) -> Pins:
        assert peer.is_here
        assert request.paths == ("/a",)
        return self

    def next(self) -> PinnedChunk:
        return PinnedChunk("a" * 32, 0, "/a", notice="x" * MIB)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()

    def renew(self, pin_id: str, ttl_s: float) -> None:
        raise AssertionError(f"pin {pin_id} is not renewed here for {ttl_s} s")

    def unpin(self, pin_id: str) -> None:
        raise AssertionError(f"pin {pin_id} is not let go here")

    def locate(self, pin_id: str, chunk_no: int, generation: int) -> StoredChunk:
        raise AssertionError(f"chunk {chunk_no} of pin {pin_id} is not read here, nor its generation {generation}")


@pytest.fixture
def runs() -> Endless:
    return Endless()


@pytest.fixture
def client(runs: Endless, folder: ChunkFolder) -> Iterator[BrokerClient]:
    with BrokerThread(runs, folder, "127.0.0.1", 0) as thread, BrokerClient(f"127.0.0.1:{thread.port}") as client:
        yield client


def test_readers_who_stop_hold_a_few_reports_and_not_for_long(client: BrokerClient, runs: Endless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "READER_S", 1.0)
    readers = [client.report(WANTED) for _ in range(N_READERS)]
    assert [len(next(reader)) for reader in readers] == [MIB] * N_READERS  # the third waits for one who is dropped
    assert 0 < runs.most_open <= REPORT_SHARE
    wait_until(lambda: runs.n_open == 0)
    with pytest.raises(BrokerUnavailable, match="nothing was read here for 1 s"):
        for _ in readers[0]:
            pass
    for reader in readers:
        reader.close()


def test_a_ledger_that_is_slow_with_reports_holds_up_no_other_call_and_one_client_no_other(
    runs: Endless, folder: ChunkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_client, "OPTIONS", (*broker_client.OPTIONS, ALONE))
    runs.may_go_on.clear()
    with (
        BrokerThread(runs, folder, "127.0.0.1", 0) as thread,
        BrokerClient(f"127.0.0.1:{thread.port}") as client,
        BrokerClient(f"127.0.0.1:{thread.port}") as other,
        ThreadPoolExecutor(POOL_THREADS) as pool,
    ):
        pages: dict[Future[str], Generator[str]] = {}

        def ask(asking: BrokerClient, n: int) -> None:
            readers = [asking.report(WANTED) for _ in range(n)]
            pages.update({pool.submit(next, reader): reader for reader in readers})

        try:
            ask(client, POOL_THREADS - 1)
            wait_until(lambda: runs.n_open == REPORT_SHARE)
            ask(other, 1)  # waits behind nothing of the first one's
            wait_until(lambda: runs.n_open == REPORT_SHARE + 1)
            assert client.get(4).run_id == 1
            assert not any(page.done() for page in pages)
        finally:
            runs.may_go_on.set()
        for page in as_completed(pages, timeout=60):  # as one has seen enough, the next one gets his
            assert len(page.result()) == MIB
            pages[page].close()
        wait_until(lambda: runs.n_open == 0)
    assert runs.most_open <= REPORTS


def test_who_takes_no_more_chunks_that_are_cut_for_him_loses_his_turn(
    runs: Endless, folder: ChunkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "READER_S", 1.0)
    pins = Pins()
    with BrokerThread(runs, folder, "127.0.0.1", 0, pins=pins) as thread, BrokerClient(f"127.0.0.1:{thread.port}") as client:
        call = client.pin(PinRequest("a" * 32, ("/a",), 60.0))
        assert next(call).path == "/a"
        assert pins.closed.wait(30)
        with pytest.raises(BrokerUnavailable, match="nothing was read here for 1 s"):
            for _ in call:
                pass
