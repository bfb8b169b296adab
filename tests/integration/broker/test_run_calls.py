"""Runs over real gRPC: answers, errors with their class, Watch and its ends, health and reflection."""

from __future__ import annotations

import inspect
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protheon_dask import errors
from protheon_dask.broker import client as client_module
from protheon_dask.broker import run_service
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.wire import DeadLetters, LetterChoice, Replay, Report, Resumption, RunView, Submission, Undone
from protheon_dask.errors import BrokerUnavailable, ConfigError, InvariantError, NotFound, ProtheonError
from protheon_dask.model import RunState
from protheon_dask.pipelines.pack import PackedPipeline
from protheon_dask.run.master import Master
from tests.fixtures.broker import BrokerProcess, ChunkFolder, Runs
from tests.unit.cli.pictures import MIDDLE

SERVICES = {"protheon.v1.ChunkService", "protheon.v1.RunService", "grpc.health.v1.Health"}


def running(done: int, run_id: int = 4) -> RunView:
    return RunView(run_id, RunState.RUNNING, {"done": done})


def sample(cls: type[ProtheonError]) -> ProtheonError:
    """An error with an argument for each parameter of its constructor, by the annotation."""
    if cls is ProtheonError:
        return cls("something")
    parameters = inspect.signature(cls).parameters.values()
    numbers = {"int": 7, "float": 1.5}
    return cls(*(numbers.get(parameter.annotation, f"the {parameter.name} \u2713") for parameter in parameters))


ERRORS = [sample(cls) for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ProtheonError)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_crosses_the_wire_as_itself(client: BrokerClient, runs: Runs, error: ProtheonError) -> None:
    runs.story = [error]

    with pytest.raises(type(error)) as raised:
        client.get(4)

    assert (type(raised.value), raised.value.args, str(raised.value)) == (type(error), error.args, str(error))
    assert isinstance(raised.value.__cause__, grpc.RpcError)


def test_a_defect_of_the_master_is_the_maintainers(client: BrokerClient, runs: Runs) -> None:
    runs.story = [ZeroDivisionError("oops")]

    with pytest.raises(InvariantError, match="oops"):
        client.get(4)


def test_each_call_reaches_its_function_and_returns_its_answer(client: BrokerClient, runs: Runs) -> None:
    runs.story = [running(1)]
    pipeline = PackedPipeline("jsonl", "1", "jsonl", b"\x00", b"\x01", b"\x02", "[]", "{}", '{"table":"a.b"}')
    submission = Submission(("/data/*.zst",), pipeline, 500, None, 0.5, again=True, request_id="once", checksum=True)

    assert client.submit(submission).run_id == 4
    assert runs.submissions == [submission]
    assert client.get(4) == client.cancel(4) == running(1)
    assert client.pause(4, "lunch") == client.resume(Resumption(4, reject_limit_lines=0)) == running(1)
    assert (runs.reasons, runs.resumptions) == (["lunch"], [Resumption(4, reject_limit_lines=0)])
    replays = [Replay(4), Replay(4, pipeline, reject_limit_fraction=0.0, request_id="once")]
    assert [client.replay(replay).run_id for replay in replays] == [4, 4]
    assert runs.replays == replays
    assert client.undo(7) == Undone(7, {"public.t": 1 << 40})
    choices = [LetterChoice(), LetterChoice(4), LetterChoice(task_ids=(1, 1 << 40))]
    assert [client.replay_dead_letters(choice) for choice in choices] == [
        DeadLetters(choice.task_ids, (choice.run_id,), ("replayed, in plain words: é",)) for choice in choices
    ]
    assert client.purge_dead_letters(choices[2]) == DeadLetters((1, 1 << 40))
    assert runs.choices == [*choices, choices[2]]
    assert client.list(limit=5) == (running(1),)
    assert client.info().scheduler_address == "tcp://127.0.0.1:8786"


@pytest.mark.parametrize("end", [RunState.SUCCEEDED, RunState.INCOMPLETE, RunState.CANCELLED, RunState.PAUSED])
def test_watch_yields_each_change_once_and_ends_with_the_run(
    client: BrokerClient, runs: Runs, end: RunState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_service, "WATCH_PERIOD_S", 0.01)
    runs.story = [running(1), running(1), running(2), running(2), RunView(4, end, {"done": 2})]

    assert list(client.watch(4)) == [running(1), running(2), RunView(4, end, {"done": 2})]


def test_watching_the_latest_run_stays_with_that_run(client: BrokerClient, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_service, "WATCH_PERIOD_S", 0.01)
    runs.story = [running(1), running(2), RunView(4, RunState.SUCCEEDED)]

    list(client.watch())

    assert runs.asked == [0, 4, 4]


def test_watch_goes_on_unseen_when_its_stream_reaches_its_deadline(
    client: BrokerClient, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_service, "WATCH_PERIOD_S", 0.05)
    monkeypatch.setattr(client_module, "STREAM_S", 0.4)
    runs.story = [*[running(1)] * 20, RunView(4, RunState.SUCCEEDED)]  # a second: three streams

    assert list(client.watch(4)) == [running(1), RunView(4, RunState.SUCCEEDED)]


def test_a_watcher_that_stops_to_listen_ends_the_masters_looking(client: BrokerClient, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_service, "WATCH_PERIOD_S", 0.01)
    watching = client.watch(4)
    next(watching)
    watching.close()
    runs.story = [NotFound("nobody may ask any more")]
    answered = threading.Event()

    with pytest.raises(NotFound):
        client.get(4)
    n_asked = len(runs.asked)
    answered.wait(0.2)  # twenty periods

    assert len(runs.asked) <= n_asked + 1


def test_watching_a_run_that_does_not_exist_is_not_found(client: BrokerClient, runs: Runs) -> None:
    runs.story = [NotFound("there is no run 9")]

    with pytest.raises(NotFound, match="no run 9"):
        next(client.watch(9))


def test_calls_and_watches_name_the_broker_that_is_away(broker_process: BrokerProcess) -> None:
    broker_process.start()
    broker_process.kill()
    with BrokerClient(f"127.0.0.1:{broker_process.port}") as client:
        for call in (client.info, client.get, client.list, lambda: next(client.watch())):
            with pytest.raises(BrokerUnavailable, match=client.address):
                call()


def test_an_answer_that_does_not_come_in_time_is_an_outage(folder: ChunkFolder) -> None:
    released = threading.Event()

    class Stuck(Runs):
        def get(self, run_id: int) -> RunView:
            released.wait()
            return super().get(run_id)

    with BrokerThread(Stuck(), folder, "127.0.0.1", 0) as broker, BrokerClient(f"127.0.0.1:{broker.port}") as client:
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            client.get(timeout_s=0.2)
        released.set()


def test_a_client_that_was_closed_stays_closed_and_says_so(broker: BrokerThread) -> None:
    with BrokerClient(f"127.0.0.1:{broker.port}") as client:
        assert client.info().epoch == 1
    for call in (client.info, lambda: next(client.watch()), lambda: next(client.report(Report("runs")))):
        with pytest.raises(ConfigError, match=f"the connection to the master at {client.address} was closed here: open another one"):
            call()


@pytest.mark.parametrize("kind", [BrokerClient, Master])
def test_who_watches_while_the_client_is_closed_is_told_of_no_outage(
    kind: type[BrokerClient | Master], broker: BrokerThread, runs: Runs
) -> None:
    runs.story = [RunView(4, RunState.RUNNING, MIDDLE.to_json())]
    client = kind(f"127.0.0.1:{broker.port}")
    watching, seen = client.watch(4), []
    seen.append(next(watching))
    hanging_up = threading.Timer(0.2, client.close)
    hanging_up.start()
    with pytest.raises(ConfigError, match="was closed here"):
        seen.extend(watching)
    hanging_up.join()
    assert len(seen) == 1, "a picture of an outage that there was not"


def test_health_is_serving_until_the_broker_stops(runs: Runs, folder: ChunkFolder) -> None:
    broker = BrokerThread(runs, folder, "127.0.0.1", 0)
    broker.start()
    with grpc.insecure_channel(f"127.0.0.1:{broker.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "protheon.v1.RunService", "protheon.v1.ChunkService"):
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        broker.stop()
        with pytest.raises(grpc.RpcError) as away:
            check(health_pb2.HealthCheckRequest(), timeout=5)

    assert away.value.code() is grpc.StatusCode.UNAVAILABLE


def test_reflection_names_the_services_on_loopback(broker: BrokerThread) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{broker.port}") as channel:
        assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) >= SERVICES


def test_there_is_no_reflection_beyond_loopback(runs: Runs, folder: ChunkFolder) -> None:
    with (
        BrokerThread(runs, folder, "0.0.0.0", 0) as broker,
        grpc.insecure_channel(f"127.0.0.1:{broker.port}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        ProtoReflectionDescriptorDatabase(channel).get_services()

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stopped_broker_leaves_no_thread_and_frees_its_port(runs: Runs, folder: ChunkFolder) -> None:
    with BrokerThread(runs, folder, "127.0.0.1", 0) as broker, BrokerClient(f"127.0.0.1:{broker.port}") as client:
        client.info()
        port = broker.port
    broker.stop()

    with BrokerThread(runs, folder, "127.0.0.1", port) as again:
        assert again.port == port
    assert not [thread.name for thread in threading.enumerate() if thread.name == "broker"]


def test_a_host_that_is_not_this_machines_is_a_matter_of_configuration(runs: Runs, folder: ChunkFolder) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        BrokerThread(runs, folder, "192.0.2.1", 0).start()


def test_the_port_is_known_only_after_the_start(runs: Runs, folder: ChunkFolder) -> None:
    broker = BrokerThread(runs, folder, "127.0.0.1", 0)

    with pytest.raises(InvariantError):
        _ = broker.port
    broker.stop()
