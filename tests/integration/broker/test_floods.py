"""One client that floods, stalls, or sends garbage: the others are served, and the broker has nothing left of it."""

from __future__ import annotations

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest

from protheon_dask.broker import gate, server, wire
from protheon_dask.broker._pb import chunk_pb2_grpc, run_pb2, run_pb2_grpc
from protheon_dask.broker.calls import POOL_THREADS
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.gate import CONNECTION_STREAMS
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.errors import BrokerBusy, ConfigError
from tests.fixtures.broker import MIB, BrokerProcess, ChunkFolder, Runs
from tests.fixtures.cluster import wait_until
from tests.fixtures.tls import MASTER, authority, identity

SLOW_RUN = 99
ALONE = (("grpc.use_local_subchannel_pool", 1),)
"""A connection of its own: else channels of one process share one."""


@dataclass(slots=True)
class SlowRuns(Runs):
    """One of its runs is looked at for ever, as by a ledger that hangs."""

    may_end: threading.Event = field(default_factory=threading.Event)
    n_slow: int = 0

    def get(self, run_id: int) -> wire.RunView:
        if run_id == SLOW_RUN:
            self.n_slow += 1
            self.may_end.wait(60)
        return Runs.get(self, run_id)


@pytest.fixture
def runs() -> Iterator[SlowRuns]:
    runs = SlowRuns()
    yield runs
    runs.may_end.set()


@contextmanager
def flooder(broker: BrokerThread) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{broker.port}", options=ALONE) as channel:
        yield channel


def fetched(client: BrokerClient, folder: ChunkFolder, n_bytes: int = 8 * MIB) -> bool:
    """Fetch a chunk, with a deadline that a client who waits for others would miss."""
    wanted, sink = folder.put(7, n_bytes), io.BytesIO()
    client.fetch_chunk(wanted, sink, deadline_s=30)
    return sink.getvalue() == folder.bytes_of(7)


def test_streams_beyond_a_clients_share_are_refused_while_anothers_chunk_flows(
    broker: BrokerThread, client: BrokerClient, folder: ChunkFolder
) -> None:
    with flooder(broker) as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        calls = [stub.Watch(run_pb2.WatchRequest(run_id=1), timeout=60) for _ in range(3 * CONNECTION_STREAMS)]
        wait_until(lambda: sum(call.code() is not None for call in calls if not call.is_active()) == 2 * CONNECTION_STREAMS)
        refused = [call for call in calls if not call.is_active()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert "32 streams open here" in refused[0].details()
        assert fetched(client, folder)
        for call in calls:
            call.cancel()


def test_our_client_waits_for_a_place_among_its_own_streams(
    client: BrokerClient, folder: ChunkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_STREAMS", 2)
    first, second = client.watch(1), client.watch(1)
    next(first), next(second)
    wanted, sink = folder.put(7, 10_000), io.BytesIO()
    with pytest.raises(BrokerBusy, match="may have no more"):
        client.fetch_chunk(wanted, sink, deadline_s=0.5)
    threading.Timer(0.2, first.close).start()
    assert client.fetch_chunk(wanted, sink, deadline_s=30) == 10_000
    third, fourth = client.watch(1), client.watch(1)
    next(third)
    threading.Timer(0.2, second.close).start()
    assert next(fourth).run_id == 1  # a run that is watched waits likewise
    for views in (third, fourth):
        views.close()


def test_all_connections_of_another_host_share_its_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HOST_STREAMS", 3)
    made = authority(tmp_path)
    nuc, deck = identity(made, "nuc"), identity(made, "deck")
    with BrokerThread(Runs(), ChunkFolder(tmp_path), "127.0.0.1", 0, tls=identity(made, MASTER)) as broker, ExitStack() as stack:
        address = f"127.0.0.1:{broker.port}"
        calls = []
        for _ in range(5):  # five connections, each with one stream
            pem = nuc.read()
            options = (*ALONE, ("grpc.ssl_target_name_override", "master.protheon.internal"))
            credentials = grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)
            channel = stack.enter_context(grpc.secure_channel(address, credentials, options=options))
            calls.append(run_pb2_grpc.RunServiceStub(channel).Watch(run_pb2.WatchRequest(run_id=1), timeout=60))
        wait_until(lambda: sum(not call.is_active() for call in calls) == 2)
        refused = [call for call in calls if not call.is_active()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert "host nuc has 3 streams open" in refused[0].details()
        with BrokerClient(address, deck) as other:
            views = other.watch(1)
            assert next(views).run_id == 1
            views.close()


def test_calls_that_hang_take_half_the_threads_and_no_other_client_waits(
    broker: BrokerThread, client: BrokerClient, runs: SlowRuns
) -> None:
    with flooder(broker) as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        calls = [stub.Get.future(run_pb2.GetRequest(run_id=SLOW_RUN), timeout=60) for _ in range(5 * POOL_THREADS)]
        wait_until(lambda: runs.n_slow == POOL_THREADS // 2)
        began_at = time.monotonic()
        assert client.get(1).run_id == 1
        assert time.monotonic() - began_at < 5
        for call in calls:  # hung up on, they are still at work in their threads
            call.cancel()
        again = [stub.Get.future(run_pb2.GetRequest(run_id=SLOW_RUN), timeout=60) for _ in range(POOL_THREADS)]
        assert client.get(1).run_id == 1
        assert runs.n_slow == POOL_THREADS // 2
        runs.may_end.set()
        assert all(call.result().run_id == 1 for call in again)


GARBAGE = {
    "random bytes": random.Random(1).randbytes(4_096),
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: master\r\n\r\n",
    "half a handshake of TLS": bytes.fromhex("1603010200010001fc0303") + b"\0" * 30,
    "a greeting, then random frames": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + bytes(9)[:3]
    + b"\x04"
    + bytes(5)
    + random.Random(2).randbytes(4_096),
    "a frame of 16 MiB": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(64 << 10),
    "headers without an end": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    + b"".join(b"\x00\x40\x00" + (b"\x01" if n == 0 else b"\x09") + b"\x00\x00\x00\x00\x01" + bytes(0x4000) for n in range(64)),
}


@pytest.mark.parametrize("is_tls", [False, True], ids=["plaintext", "TLS"])
def test_garbage_ends_its_own_connection_alone(tmp_path: Path, runs: SlowRuns, is_tls: bool) -> None:
    folder = ChunkFolder(tmp_path)
    made = authority(tmp_path / "home") if is_tls else None
    tls = identity(made, MASTER) if made else None
    with BrokerThread(runs, folder, "127.0.0.1", 0, tls=tls) as broker, ExitStack() as stack:
        client = stack.enter_context(BrokerClient(f"127.0.0.1:{broker.port}", tls))
        assert fetched(client, folder)
        before = psutil.Process().num_fds()
        for _ in range(10):
            for data in GARBAGE.values():
                with socket.create_connection(("127.0.0.1", broker.port), 10) as way:
                    try:
                        way.sendall(data)
                        way.shutdown(socket.SHUT_WR)
                        while way.recv(65_536):
                            pass
                    except OSError:  # reset
                        pass
        assert fetched(client, folder)
        wait_until(lambda: psutil.Process().num_fds() <= before + 2)


def test_who_says_nothing_is_hung_up_on(runs: SlowRuns, folder: ChunkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    sooner = {"grpc.server_handshake_timeout_ms": 1_000, "grpc.max_connection_idle_ms": 1_000}
    monkeypatch.setattr(server, "OPTIONS", tuple((name, sooner.get(name, value)) for name, value in server.OPTIONS))
    with BrokerThread(runs, folder, "127.0.0.1", 0) as broker, BrokerClient(f"127.0.0.1:{broker.port}") as client, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", broker.port), 30)) for _ in range(200)]
        assert fetched(client, folder)
        for way in silent:
            while way.recv(65_536):  # its own greeting; then the end
                pass
        time.sleep(1.5)  # longer than a connection may be idle
        assert client.info().broker_uuid == "a-uuid"  # it connects anew, without a word


def test_who_opens_connections_takes_half_of_the_brokers_files_at_most(
    runs: SlowRuns, folder: ChunkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "open_files", lambda: 2 * server.MIN_CONNECTIONS)
    with BrokerThread(runs, folder, "127.0.0.1", 0) as broker, BrokerClient(f"127.0.0.1:{broker.port}") as client, ExitStack() as stack:
        assert fetched(client, folder)
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", broker.port), 30)) for _ in range(2 * server.MIN_CONNECTIONS)]
        assert fetched(client, folder)  # by the connection that it has
        n_let_in = 0
        for way in silent:
            with suppress(ConnectionError):
                n_let_in += bool(way.recv(1))  # the greeting of HTTP/2, or an end
        assert n_let_in < server.MIN_CONNECTIONS


@pytest.mark.slow
def test_a_connection_that_is_old_is_replaced_without_a_call_that_fails(
    runs: SlowRuns, folder: ChunkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tuple((name, 300 if name == "grpc.max_connection_age_ms" else value) for name, value in server.OPTIONS)
    monkeypatch.setattr(server, "OPTIONS", options)
    with BrokerThread(runs, folder, "127.0.0.1", 0) as broker, BrokerClient(f"127.0.0.1:{broker.port}") as client:
        views = client.watch(1)
        next(views)
        end_at, n_calls = time.monotonic() + 2.0, 0  # six ages
        while time.monotonic() < end_at:
            assert client.info().broker_uuid == "a-uuid"
            n_calls += 1
        assert n_calls > 20
        runs.story = [wire.RunView(1, wire.RunState.SUCCEEDED)]
        assert [view.state for view in views] == [wire.RunState.SUCCEEDED]  # its stream was open all the time


def test_a_message_above_the_limit_is_refused_by_either_end_and_its_connection_goes_on(
    broker: BrokerThread, client: BrokerClient, folder: ChunkFolder
) -> None:
    with flooder(broker) as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Submit(run_pb2.SubmitRequest(paths=["x" * MIB] * 17), timeout=30)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Info(run_pb2.InfoRequest(), timeout=30).broker_uuid == "a-uuid"
        with pytest.raises(grpc.RpcError) as raised:
            stub.Info(run_pb2.InfoRequest(), metadata=[("x-large", "x" * (64 << 10))], timeout=30)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    packed = wire.PackedPipeline("numbers", "1", "m:numbers", b"", b"", b"", "[]", "{}", "{}")
    with pytest.raises(ConfigError, match="larger than max"):
        client.submit(wire.Submission(paths=tuple(f"{n}" + "x" * MIB for n in range(17)), pipeline=packed))
    assert fetched(client, folder)


@pytest.mark.slow
def test_readers_who_stop_do_not_fill_the_brokers_memory(tmp_path: Path, broker_process: BrokerProcess) -> None:
    """Each of 32 has asked for 64 MiB and reads nothing."""
    folder = ChunkFolder(tmp_path)
    wanted = folder.put(1, 64 * MIB)
    broker_process.start()
    process, address = psutil.Process(broker_process.pid), f"127.0.0.1:{broker_process.port}"
    with BrokerClient(address) as client, grpc.insecure_channel(address, options=ALONE) as channel:
        before = process.memory_info().rss
        stub = chunk_pb2_grpc.ChunkServiceStub(channel)
        calls = [stub.ReadChunk(wire.read_message(wanted, 0), timeout=60) for _ in range(CONNECTION_STREAMS)]
        assert fetched(client, folder, 32 * MIB)
        held = process.memory_info().rss - before
        assert held < CONNECTION_STREAMS * 8 * MIB  # two messages each, and what is on its way
        for call in calls:
            call.cancel()
        print(f"32 readers who stopped: {held / MIB:.0f} MiB held")
