"""Connections that break in the middle of a chunk: the fetch goes on where it was, or says why not."""

from __future__ import annotations

import io
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from protheon_dask.broker._pb import chunk_pb2, chunk_pb2_grpc
from protheon_dask.broker.chunks import MAX_GAPS, WantedChunk
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.errors import BrokerUnavailable, ChunkGap, LeaseLost
from tests.fixtures.broker import MIB, BrokerProcess, ChunkFolder, CuttingProxy


class Bent(chunk_pb2_grpc.ChunkServiceServicer):
    """A broker that is wrong on purpose: answers by bend(data, offset)."""

    def __init__(self, data: bytes, bend: Callable[[bytes, int], Iterator[tuple[int, bytes]]]) -> None:
        self._data, self._bend, self.n_calls = data, bend, 0

    def ReadChunk(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # the service's shape
        self.n_calls += 1
        for offset, data in self._bend(self._data, request.offset_bytes):
            yield chunk_pb2.ReadChunkResponse(offset_bytes=offset, data=data)


@contextmanager
def served(servicer: Bent) -> Iterator[BrokerClient]:
    server = grpc.server(ThreadPoolExecutor(2))
    chunk_pb2_grpc.add_ChunkServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with BrokerClient(f"127.0.0.1:{port}") as client:
        yield client
    server.stop(0).wait()


def nothing(_data: bytes, _offset: int) -> Iterator[tuple[int, bytes]]:
    return iter(())


def half_of_the_rest(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    yield offset, data[offset : offset + max(1, (len(data) - offset) // 2)]


def always_from_the_start(data: bytes, _offset: int) -> Iterator[tuple[int, bytes]]:
    yield 0, data[:1000]


def twice_the_same(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    yield offset, data[offset : offset + 1000]
    yield offset, data[offset : offset + 1000]


def one_byte_more(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    yield offset, data[offset:] + b"!"


@pytest.fixture
def chunk(folder: ChunkFolder) -> tuple[WantedChunk, bytes]:
    return folder.put(7, 10_000), folder.bytes_of(7)


@pytest.mark.parametrize("bend", [half_of_the_rest, twice_the_same], ids=lambda bend: bend.__name__)
def test_streams_that_bring_a_part_and_end_wrong_add_up_to_the_chunk(
    chunk: tuple[WantedChunk, bytes], bend: Callable[[bytes, int], Iterator[tuple[int, bytes]]]
) -> None:
    (wanted, data), sink = chunk, io.BytesIO()
    with served(Bent(data, bend)) as client:
        wire_bytes = client.fetch_chunk(wanted, sink, deadline_s=20, wait=lambda _: None)

    assert sink.getvalue() == data
    assert wire_bytes == len(data)


@pytest.mark.parametrize("bend", [nothing, one_byte_more], ids=lambda bend: bend.__name__)
def test_streams_that_never_fit_end_as_a_gap_after_a_few(
    chunk: tuple[WantedChunk, bytes], bend: Callable[[bytes, int], Iterator[tuple[int, bytes]]]
) -> None:
    wanted, data = chunk
    bent = Bent(data, bend)
    with served(bent) as client, pytest.raises(ChunkGap):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=20, wait=lambda _: None)

    assert bent.n_calls == MAX_GAPS


def test_a_server_that_ignores_the_offset_ends_as_a_gap(chunk: tuple[WantedChunk, bytes]) -> None:
    wanted, data = chunk
    with served(Bent(data, always_from_the_start)) as client, pytest.raises(ChunkGap):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=20, wait=lambda _: None)


def test_a_broker_killed_in_the_middle_and_started_again_costs_no_byte_twice(broker_process: BrokerProcess, folder: ChunkFolder) -> None:
    wanted, sink = folder.put(7, 48 * MIB), io.BytesIO()
    waits: list[float] = []
    broker_process.start()

    def kill_once(_: int) -> None:
        if not waits:
            broker_process.kill()

    def start_again(delay_s: float) -> None:
        if not waits:
            broker_process.start()
        waits.append(delay_s)
        time.sleep(delay_s)

    with BrokerClient(f"127.0.0.1:{broker_process.port}") as client:
        wire_bytes = client.fetch_chunk(wanted, sink, deadline_s=60, wait=start_again, on_bytes=kill_once)

    assert waits
    assert sink.getvalue() == folder.bytes_of(7)
    assert wire_bytes == 48 * MIB


def test_a_connection_that_is_cut_again_and_again_yields_the_chunk(broker: BrokerThread, folder: ChunkFolder) -> None:
    wanted, sink = folder.put(7, 24 * MIB), io.BytesIO()
    waits: list[float] = []

    def wait(delay_s: float) -> None:
        waits.append(delay_s)
        time.sleep(delay_s)

    with CuttingProxy(broker.port, 6 * MIB) as proxy, BrokerClient(f"127.0.0.1:{proxy.port}") as client:
        wire_bytes = client.fetch_chunk(wanted, sink, deadline_s=60, wait=wait)

    assert sink.getvalue() == folder.bytes_of(7)
    assert wire_bytes == 24 * MIB
    assert proxy.n_cuts >= 4
    assert len(waits) >= 4


def test_a_broker_that_is_away_is_tried_until_the_lease_is_lost(broker_process: BrokerProcess, folder: ChunkFolder) -> None:
    wanted, waits = folder.put(7, MIB), []
    broker_process.start()
    broker_process.kill()

    def lose_the_lease(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 7:
            raise LeaseLost(7, 1)

    with BrokerClient(f"127.0.0.1:{broker_process.port}") as client, pytest.raises(LeaseLost):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=60, wait=lose_the_lease)

    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_broker_that_stays_away_is_unavailable_at_the_deadline_and_named(broker_process: BrokerProcess, folder: ChunkFolder) -> None:
    wanted = folder.put(7, MIB)
    broker_process.start()
    broker_process.kill()
    address, started_at = f"127.0.0.1:{broker_process.port}", time.monotonic()

    with BrokerClient(address) as client, pytest.raises(BrokerUnavailable, match=address):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=0.7)

    assert time.monotonic() - started_at < 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot freeze a process by a signal")
def test_a_frozen_broker_is_noticed_without_the_streams_deadline(broker_process: BrokerProcess, folder: ChunkFolder) -> None:
    wanted = folder.put(7, 64 * MIB)
    frozen_at: list[float] = []
    broker_process.start()

    def freeze(_: int) -> None:
        if not frozen_at:
            broker_process.signal(signal.SIGSTOP)
            frozen_at.append(time.monotonic())

    def stop(_: float) -> None:
        raise LeaseLost(7, 1)

    with BrokerClient(f"127.0.0.1:{broker_process.port}") as client, pytest.raises(LeaseLost):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=120, wait=stop, on_bytes=freeze)

    assert time.monotonic() - frozen_at[0] < 30  # keepalive: 10 s + 5 s; the stream's own deadline is 60 s
