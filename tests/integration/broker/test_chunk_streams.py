"""Chunks over real gRPC from real files: whole, resumed, outdated, missing, shortened, wrong, many at once."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from tempfile import SpooledTemporaryFile

import grpc
import psutil
import pytest

from protheon_dask.broker import client as client_module
from protheon_dask.broker import wire
from protheon_dask.broker._pb import chunk_pb2_grpc
from protheon_dask.broker.chunks import MESSAGE_BYTES
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.errors import (
    ChecksumMismatch,
    ChunkGap,
    ChunkOutdated,
    ChunkUnavailable,
    ConfigError,
    LeaseLost,
    NotFound,
)
from tests.fixtures.broker import MIB, ChunkFolder, Runs


class Stopped(Exception):
    """What a caller raises to end a fetch."""


def stop(_: object) -> None:
    raise Stopped


@pytest.mark.parametrize("stored_bytes", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 17])
def test_a_whole_chunk_arrives_and_every_byte_is_counted(
    client: BrokerClient, folder: ChunkFolder, sent: Counter[int], stored_bytes: int
) -> None:
    wanted, sink = folder.put(7, stored_bytes), io.BytesIO()
    pieces: list[int] = []

    wire_bytes = client.fetch_chunk(wanted, sink, deadline_s=20, wait=stop, on_bytes=pieces.append)

    assert sink.getvalue() == folder.bytes_of(7)
    assert wire_bytes == sum(pieces) == sent[7] == stored_bytes
    assert max(pieces, default=0) <= MESSAGE_BYTES


def test_a_spooled_temporary_file_is_a_sink(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted = folder.put(7, 3 * MIB)
    with SpooledTemporaryFile(max_size=MIB) as sink:
        client.fetch_chunk(wanted, sink, deadline_s=20)
        sink.seek(0)

        assert sink.read() == folder.bytes_of(7)


def test_a_stream_begins_at_the_offset_that_was_asked_for(broker: BrokerThread, folder: ChunkFolder) -> None:
    wanted, offset = folder.put(7, 3 * MIB), MIB + 5
    with grpc.insecure_channel(f"127.0.0.1:{broker.port}") as channel:
        call = chunk_pb2_grpc.ChunkServiceStub(channel).ReadChunk(wire.read_message(wanted, offset), timeout=10)
        pieces = [wire.piece_from_message(message) for message in call]

    assert [piece.offset_bytes for piece in pieces] == [offset, offset + MIB]
    assert b"".join(piece.data for piece in pieces) == folder.bytes_of(7)[offset:]


@pytest.mark.parametrize("offset", [-1, MIB + 1])
def test_an_offset_outside_of_the_chunk_is_refused(broker: BrokerThread, folder: ChunkFolder, offset: int) -> None:
    wanted = folder.put(7, MIB)
    with grpc.insecure_channel(f"127.0.0.1:{broker.port}") as channel, pytest.raises(grpc.RpcError) as refused:
        list(chunk_pb2_grpc.ChunkServiceStub(channel).ReadChunk(wire.read_message(wanted, offset), timeout=10))

    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert wire.error_from_call(refused.value, "").args == ChunkGap(MIB, offset).args


def test_a_chunk_that_does_not_exist_is_not_found_at_once(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted = replace(folder.put(7, MIB), chunk_id=8)

    with pytest.raises(NotFound, match="no chunk 8"):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=20, wait=stop)


def test_a_chunk_of_another_generation_needs_its_new_manifest(client: BrokerClient, folder: ChunkFolder) -> None:
    old = folder.put(7, MIB)
    new = folder.put(7, 2 * MIB, generation=2)
    sink = io.BytesIO()

    with pytest.raises(ChunkOutdated):
        client.fetch_chunk(old, io.BytesIO(), deadline_s=20, wait=stop)
    client.fetch_chunk(new, sink, deadline_s=20, wait=stop)

    assert sink.getvalue() == folder.bytes_of(7)


def test_a_chunk_that_is_being_cut_again_is_waited_for(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted, sink, waits = folder.put(7, MIB), io.BytesIO(), []
    data = folder.bytes_of(7)
    folder.chunks[7].path.unlink()

    def cut_again(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            folder.put(7, MIB)

    client.fetch_chunk(wanted, sink, deadline_s=20, wait=cut_again)

    assert sink.getvalue() == data
    assert waits == [0.2, 0.4, 0.8]


def test_a_chunk_that_stays_away_is_unavailable_at_the_deadline(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted = folder.put(7, MIB)
    folder.chunks[7].path.unlink()

    with pytest.raises(ChunkUnavailable, match="cut again"):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=0.5)


def test_a_file_that_is_shorter_than_its_manifest_never_passes_for_the_chunk(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted, sink = folder.put(7, 3 * MIB), io.BytesIO()
    data = folder.bytes_of(7)
    folder.chunks[7].path.write_bytes(data[: 2 * MIB - 9])

    def cut_again(_: float) -> None:
        folder.put(7, 3 * MIB)

    wire_bytes = client.fetch_chunk(wanted, sink, deadline_s=20, wait=cut_again)

    assert sink.getvalue() == data
    assert wire_bytes == 3 * MIB  # gone on at the offset


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete open files")
def test_a_file_deleted_under_an_open_stream_is_still_sent_whole(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted, sink = folder.put(7, 32 * MIB), io.BytesIO()
    data = folder.bytes_of(7)

    client.fetch_chunk(wanted, sink, deadline_s=20, wait=stop, on_bytes=lambda _: folder.chunks[7].path.unlink(missing_ok=True))

    assert sink.getvalue() == data


def test_bytes_that_stay_wrong_are_a_checksum_mismatch_after_two_fetches(
    client: BrokerClient, folder: ChunkFolder, sent: Counter[int]
) -> None:
    wanted = folder.put(7, 2 * MIB)
    folder.put(7, 2 * MIB, generation=2)  # other bytes of the same size in the place of the first
    folder.chunks[7] = replace(folder.chunks[7], generation=1)

    with pytest.raises(ChecksumMismatch):
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=20, wait=stop)

    assert sent[7] == 4 * MIB


def test_bytes_that_were_wrong_once_are_fetched_again_from_the_start(client: BrokerClient, folder: ChunkFolder) -> None:
    wanted, sink, pieces = folder.put(7, 2 * MIB), io.BytesIO(), []
    data = folder.bytes_of(7)
    folder.chunks[7].path.write_bytes(bytes(MIB) + data[MIB:])

    def repair_at_the_end(n_bytes: int) -> None:
        pieces.append(n_bytes)
        if sum(pieces) == 2 * MIB:
            folder.chunks[7].path.write_bytes(data)

    wire_bytes = client.fetch_chunk(wanted, sink, deadline_s=20, wait=stop, on_bytes=repair_at_the_end)

    assert sink.getvalue() == data
    assert wire_bytes == sum(pieces) == 4 * MIB


@pytest.mark.parametrize("error", [Stopped(), LeaseLost(1, 2), ChunkUnavailable("the caller's own")], ids=repr)
def test_what_the_caller_raises_ends_the_fetch_and_its_stream(client: BrokerClient, folder: ChunkFolder, error: Exception) -> None:
    wanted = folder.put(7, 32 * MIB)

    def fail(_: int) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        client.fetch_chunk(wanted, io.BytesIO(), deadline_s=20, wait=stop, on_bytes=fail)
    give_up_at = time.monotonic() + 10
    while any("7.1" in open_file.path for open_file in psutil.Process().open_files()):
        assert time.monotonic() < give_up_at, "the broker still holds the file of a stream that nobody reads"

    assert raised.value is error


def test_a_slow_reader_holds_little_and_slows_nobody(
    broker: BrokerThread, client: BrokerClient, folder: ChunkFolder, sent: Counter[int]
) -> None:
    slow, fast = folder.put(1, 96 * MIB), folder.put(2, 32 * MIB)
    with grpc.insecure_channel(f"127.0.0.1:{broker.port}", options=client_module.OPTIONS) as channel:
        call = chunk_pb2_grpc.ChunkServiceStub(channel).ReadChunk(wire.read_message(slow, 0), timeout=20)
        next(iter(call))
        client.fetch_chunk(fast, io.BytesIO(), deadline_s=20, wait=stop)
        unread_bytes = sent[1]
        call.cancel()  # type: ignore[no-untyped-call]  # the stubs forgot its None

    assert sent[2] == 32 * MIB
    assert unread_bytes <= 40 * MIB  # of 96: flow control stopped it; its window grows with the link, 5 to 17 MiB were seen


def test_sixty_four_streams_at_once_each_get_their_own_bytes(client: BrokerClient, folder: ChunkFolder) -> None:
    all_wanted = [folder.put(i, 2 * MIB + i) for i in range(64)]

    def fetch(i: int) -> bytes:
        sink = io.BytesIO()
        client.fetch_chunk(all_wanted[i], sink, deadline_s=60)
        return sink.getvalue()

    with ThreadPoolExecutor(64) as pool:
        fetched = list(pool.map(fetch, range(64)))

    assert all(data == folder.bytes_of(i) for i, data in enumerate(fetched))


def test_a_second_broker_on_the_same_port_is_refused_and_the_first_goes_on(
    broker: BrokerThread, client: BrokerClient, runs: Runs, folder: ChunkFolder
) -> None:
    second = BrokerThread(runs, folder, "127.0.0.1", broker.port)

    with pytest.raises(ConfigError, match=str(broker.port)):
        second.start()
    second.stop()

    assert client.info().broker_uuid == "a-uuid"


def test_throughput_of_one_stream_is_printed(client: BrokerClient, folder: ChunkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, started_at = folder.put(7, 64 * MIB), time.perf_counter()
    with SpooledTemporaryFile(max_size=128 * MIB) as sink:
        client.fetch_chunk(wanted, sink, deadline_s=60)
    duration_s = time.perf_counter() - started_at
    with capsys.disabled():
        print(f"\n64 MiB in one stream: {64 * MIB / duration_s / 1e6:.0f} MB/s")
