"""The general queue on real processes: tasks beside a load, dead letters, workers and brokers killed, another language's client."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from google.protobuf import json_format
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protheon_dask.broker._pb import task_pb2
from protheon_dask.broker.wire import TaskView
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.run.cluster import Cluster
from protheon_dask.run.link import Link
from protheon_dask.run.master import Master
from tests.acceptance.conftest import Type, World, new_world, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.postgres import fresh_database
from tests.integration.run.conftest import Running

ROOT = Path(__file__).parents[2]
SETTINGS = {"lease_s": 12.0, "renew_s": 1.0, "stall_s": 30.0, "backoff_base_s": 0.2, "exit_grace_s": 3.0}
TASKS = """
import os, time
from pathlib import Path
import protheon_dask as protheon

@protheon.task
def add(payload):
    return {"sum": sum(payload)}

@protheon.task
def need(payload):
    return Path(payload).read_text()

@protheon.task
def keep(payload, context):
    context.connection.execute("INSERT INTO public.kept VALUES (%s)", (payload,))
    return context.attempt_no

@protheon.task
def meet(payload, context):
    # write, tell who we are, and wait to be let go; a second attempt does not wait
    context.connection.execute("INSERT INTO public.kept VALUES (%s)", (payload["n"],))
    there = Path(payload["dir"])
    if context.attempt_no == 1:
        (there / "pid.part").write_text(str(os.getpid()))
        (there / "pid.part").rename(there / "pid")
        while not (there / "go").exists():
            context.progress()
            time.sleep(0.02)
    return context.attempt_no

@protheon.task
def fail(payload):
    raise ValueError(f"not with {payload!r}")

@protheon.task
def hang(payload, context):
    if context.attempt_no == 1:
        time.sleep(3600)
    return context.attempt_no

@protheon.task
def order(payload, context):
    context.connection.execute("INSERT INTO public.kept VALUES (%s)", (payload,))
    time.sleep(0.05)

def plain(payload):
    return payload
"""


def page_blocks(language: str) -> list[str]:
    """The fenced blocks of docs/tasks.md in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / "tasks.md").read_text(), re.MULTILINE | re.DOTALL)


def write_page_files(directory: Path) -> None:
    """The page's Python files, as their first lines name them."""
    for text, name in zip(page_blocks("python"), ("my_tasks.py", "count.py"), strict=True):
        assert text.startswith(f"# {name}")
        (directory / name).write_text(text)


def count_words(directory: Path, home: Path, url: str) -> str:
    """What the documentation's script prints where it is run as it stands there."""
    env = {**os.environ, "PROTHEON_HOME": str(home), "PROTHEON_DATABASE_URL": url}
    ran = subprocess.run([sys.executable, "count.py"], cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "using the local master" in ran.stderr or "workers are ready after" in ran.stderr  # it says what it starts
    return ran.stdout


@pytest.fixture(scope="module")
def module_world(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One cluster for all tests, whose processes can import the module of tasks."""
    directory = tmp_path_factory.mktemp("world")
    (directory / "queue_tasks.py").write_text(TASKS)
    write_page_files(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        with new_world(postgres_url, directory, **SETTINGS) as made:
            with psycopg.connect(made.url, autocommit=True) as conn:
                conn.execute("CREATE TABLE public.kept (n bigint, at timestamptz NOT NULL DEFAULT clock_timestamp())")
            yield made


@pytest.fixture
def queue(world: World) -> Master:
    """The cluster's client; nothing is kept yet."""
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute("DELETE FROM public.kept")
    return world.cluster.client


OPEN_FUNCTIONS = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'protheon-task' AND datname = current_database()"


def kept(world: World) -> list[int]:
    return [row[0] for row in world.ask("SELECT n FROM public.kept ORDER BY n")]


def endings(world: World, task: TaskView) -> list[tuple[Any, ...]]:
    return world.ask("SELECT outcome, cost FROM protheon.attempt WHERE task_id = %s ORDER BY attempt_no", task.task_id)


def done(queue: Master, task: TaskView) -> tuple[str, Any]:
    """State and result of a task that has ended."""
    ended = queue.wait_task(task.task_id, 60)
    return ended.state.value, None if ended.result_json is None else json.loads(ended.result_json)


def met(queue: Master, world: World, n: int, **options: Any) -> tuple[TaskView, int, Path]:
    """A task that has written n and waits to be let go (a file), and the process that it is in."""
    place = world.directory / f"meet-{n}"
    place.mkdir()
    task = queue.submit_task("queue_tasks:meet", {"n": n, "dir": str(place)}, **options)
    wait_until((place / "pid").exists)
    return task, int((place / "pid").read_text()), place / "go"


def broker_of(world: World) -> int:
    """The broker's process, by what it says of itself in its name."""
    [(found,)] = {
        (child.pid,) for child in psutil.Process().children(recursive=True) if child.cmdline()[1:3] == ["-m", "protheon_dask.run.broker"]
    }
    return found


# --- one task -------------------------------------------------------------------------------------------------------------------


def test_a_task_gives_its_result_and_the_same_request_the_same_task(queue: Master) -> None:
    task = queue.submit_task("queue_tasks:add", [1, 2, 3], request_id="sum")
    assert done(queue, task) == ("succeeded", {"sum": 6})
    assert queue.submit_task("queue_tasks:add", [1, 2, 3], request_id="sum").task_id == task.task_id
    with pytest.raises(ConfigError, match="with another handler, payload or option"):
        queue.submit_task("queue_tasks:add", [1, 2, 4], request_id="sum")


def test_what_is_no_task_is_refused_at_submit(queue: Master) -> None:
    with pytest.raises(ConfigError, match="queue_tasks:plain is no task: decorate the function"):
        queue.submit_task("queue_tasks:plain")
    with pytest.raises(ConfigError, match="the payload for queue_tasks:add is no JSON"):
        queue.submit_task("queue_tasks:add", [object()])
    with pytest.raises(NotFound, match="there is no task 999999"):
        queue.task(999_999)


def test_a_task_that_fails_is_tried_again_and_then_a_dead_letter(queue: Master, world: World) -> None:
    ended = queue.wait_task(queue.submit_task("queue_tasks:fail", "this", max_failures=3).task_id, 60)
    assert (ended.state, ended.attempt_no, ended.error_class, ended.message) == ("dead", 3, "ValueError", "not with 'this'")
    assert endings(world, ended) == [("failed", "failure")] * 3
    assert world.ask("SELECT attempt_no, reason FROM protheon.dead_letter WHERE task_id = %s", ended.task_id) == [(3, "failed 3 times")]


def test_a_dead_task_is_shown_and_replayed_by_the_command_line(queue: Master, world: World, type_: Type, tmp_path: Path) -> None:
    needed = tmp_path / "needed"
    task = queue.wait_task(queue.submit_task("queue_tasks:need", str(needed), max_failures=1).task_id, 60)
    assert task.state == "dead"
    [shown] = type_("dlq", "show", "--task", task.task_id, "--json").json
    assert (shown["error_class"], shown["handler"]) == ("FileNotFoundError", "queue_tasks:need")
    assert task.task_id in [row["task_id"] for row in type_("dlq", "list", "--queue", "--json").json]
    needed.write_text("here")
    replayed = type_("dlq", "replay", "--task", task.task_id)
    assert replayed.code == 0
    assert "ready again: 1 task" in replayed.err
    assert done(queue, task) == ("succeeded", "here")
    assert f"task {task.task_id} was replayed before: it is succeeded" in type_("dlq", "replay", "--task", task.task_id).err


def test_a_delayed_task_is_not_run_before_its_time(queue: Master, world: World) -> None:
    task = queue.submit_task("queue_tasks:add", [1], delay_s=1.5)
    assert queue.wait_task(task.task_id, 0.5).state == "ready"
    assert done(queue, task) == ("succeeded", {"sum": 1})
    [(waited,)] = world.ask(
        "SELECT extract(epoch FROM started_at - %s)::float FROM protheon.attempt WHERE task_id = %s", task.submitted_at, task.task_id
    )
    assert 1.5 <= waited < 10


def test_the_clusters_object_gives_what_its_master_gives(queue: Master, world: World) -> None:
    cluster = Cluster(Link(queue, world.url, say=pytest.fail))
    task = cluster.submit_task("queue_tasks:add", [20, 22], priority=3, max_failures=2, request_id="by the cluster")
    assert cluster.wait_task(task.task_id, 60).result_json == '{"sum": 42}'
    assert cluster.task(task.task_id) == cluster.cancel_task(task.task_id) == queue.task(task.task_id)
    assert world.ask("SELECT priority, max_failures FROM protheon.task WHERE id = %s", task.task_id) == [(3, 2)]


# --- what dies, hangs or is cancelled ---------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_in_the_midst_of_a_function_costs_a_crash_and_no_row(queue: Master, world: World) -> None:
    task, pid, _ = met(queue, world, 1)
    os.kill(pid, signal.SIGKILL)
    assert done(queue, task) == ("succeeded", 2)
    assert kept(world) == [1]
    assert endings(world, task) == [("crashed", "crash"), ("succeeded", "nothing")]


def test_a_function_that_hangs_is_taken_back_after_its_visibility_and_its_process_is_new(queue: Master, world: World) -> None:
    task = queue.submit_task("queue_tasks:hang", visibility_timeout_s=1)
    assert done(queue, task) == ("succeeded", 2)
    assert endings(world, task) == [("crashed", "crash"), ("succeeded", "nothing")]
    [(told, took, processes)] = world.ask(
        "SELECT min(message), min(extract(epoch FROM ended_at - started_at)) FILTER (WHERE attempt_no = 1)::float, "
        "count(DISTINCT process_uuid) FROM protheon.attempt WHERE task_id = %s",
        task.task_id,
    )
    assert "for 1 s" in told
    assert took < SETTINGS["stall_s"] / 3
    assert processes == 2


def test_a_task_is_cancelled_while_it_is_ready_and_while_it_runs(queue: Master, world: World) -> None:
    ready = queue.submit_task("queue_tasks:keep", 1, delay_s=3_600)
    running, _, go = met(queue, world, 2)
    for task in (ready, running):
        assert queue.cancel_task(task.task_id).state == "cancelled"
        assert queue.cancel_task(task.task_id).state == "cancelled"
        assert done(queue, task) == ("cancelled", None)
    go.touch()
    assert done(queue, queue.submit_task("queue_tasks:keep", 3)) == ("succeeded", 1)
    wait_until(lambda: not world.ask(OPEN_FUNCTIONS))
    assert kept(world) == [3]
    assert endings(world, running) == [("cancelled", "nothing")]


def test_a_broker_that_is_killed_costs_no_task_and_no_wait(queue: Master, world: World) -> None:
    running, _, go = met(queue, world, 4)
    ready = [queue.submit_task("queue_tasks:keep", n, delay_s=1) for n in (5, 6, 7)]
    os.kill(broker_of(world), signal.SIGKILL)
    waiting = Running(lambda: done(queue, running))
    try:
        # the worker that is still at work counts as such with the scheduler, or some would wait there behind it
        assert [done(queue, task) for task in ready] == [("succeeded", 1)] * 3
    finally:
        go.touch()
    assert waiting.answer(60) == ("succeeded", 1)
    assert kept(world) == [4, 5, 6, 7]
    assert endings(world, running) == [("succeeded", "nothing")]


# --- many -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tasks", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_many_tasks_and_a_load_at_once_lose_and_double_nothing(queue: Master, world: World, n_tasks: int) -> None:
    source = write_numbers(world.directory / "beside.txt", 2_000, first=n_tasks * 1_000)
    run_id = world.submit(write_pipeline(world.directory, f"beside_{n_tasks}"), source, chunk_lines=100).run_id
    tasks = [queue.submit_task("queue_tasks:keep", n) for n in range(n_tasks)]
    assert world.finish(run_id).state == "succeeded"
    assert [done(queue, task)[0] for task in tasks] == ["succeeded"] * n_tasks
    assert kept(world) == list(range(n_tasks))
    assert numbers(world.url, f"beside_{n_tasks}") == list(range(n_tasks * 1_000, n_tasks * 1_000 + 2_000))
    assert world.findings(run_id) == ()


def test_what_has_priority_goes_before_what_waits(queue: Master, world: World) -> None:
    """But for what was handed to Dask before: three tasks a thread."""
    holders = [met(queue, world, 100 + n) for n in range(2)]
    low = [queue.submit_task("queue_tasks:order", n) for n in range(14)]
    high = [queue.submit_task("queue_tasks:order", 50 + n, priority=5) for n in range(4)]
    for _, _, go in holders:
        go.touch()
    assert {done(queue, task)[0] for task in low + high} == {"succeeded"}
    order = [row[0] for row in world.ask("SELECT n FROM public.kept WHERE n < 100 ORDER BY at")]
    places = [order.index(50 + n) for n in range(4)]
    assert max(places) < 6 + len(high)
    assert min(places) < order.index(13)


# --- from another language ------------------------------------------------------------------------------------------------------

FOREIGN = """
import sys
from pathlib import Path
from grpc_tools import protoc

proto, made, address = sys.argv[1:]
assert protoc.main(["", f"-I{proto}", f"--python_out={made}", f"--grpc_python_out={made}", "protheon/v1/task.proto"]) == 0
sys.path.insert(0, made)
import grpc
from protheon.v1 import task_pb2, task_pb2_grpc

with grpc.insecure_channel(address) as channel:
    tasks = task_pb2_grpc.TaskServiceStub(channel)
    task = tasks.SubmitTask(task_pb2.SubmitTaskRequest(handler="queue_tasks:add", payload_json="[20, 22]", request_id="from elsewhere"))
    ended = tasks.WaitTask(task_pb2.WaitTaskRequest(task_id=task.task_id))
    again = tasks.SubmitTask(task_pb2.SubmitTaskRequest(handler="queue_tasks:add", payload_json="[20,22]", request_id="from elsewhere"))
    assert again.task_id == task.task_id
    try:
        tasks.SubmitTask(task_pb2.SubmitTaskRequest(handler="os:system", payload_json='"true"'))
    except grpc.RpcError as error:
        print(error.code().name, error.details())
    print(ended.state, ended.result_json, ended.submitted_at <= ended.ended_at)
assert "protheon_dask" not in sys.modules
"""


def test_a_client_that_is_made_of_the_protocol_alone_submits_and_waits(queue: Master, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FOREIGN, str(ROOT / "proto"), str(tmp_path), queue.address]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert ran.returncode == 0, ran.stderr
    refused, told = ran.stdout.splitlines()
    assert refused == "INVALID_ARGUMENT handler os:system is no task: decorate the function with @protheon.task"
    assert told == 'succeeded {"sum": 42} True'


def test_the_server_describes_the_service_to_who_asks(queue: Master) -> None:
    """Reflection: what grpcurl and its like need."""
    with grpc.insecure_channel(queue.address) as channel:
        described = ProtoReflectionDescriptorDatabase(channel).FindFileContainingSymbol("protheon.v1.TaskService")
    [service] = described.service
    assert [method.name for method in service.method] == ["SubmitTask", "GetTask", "WaitTask", "CancelTask"]


# --- the documentation ----------------------------------------------------------------------------------------------------------


def test_the_script_of_the_documentation_uses_the_cluster_that_runs_and_grpcurl_finds_it(queue: Master, module_world: World) -> None:
    directory = module_world.directory
    assert count_words(directory, directory / "home", module_world.url) == page_blocks("text")[0]
    assert module_world.ask("SELECT doc, n FROM public.word_counts") == [(7, 4)]
    submit, wait = map(shlex.split, page_blocks("sh")[1].splitlines())
    with grpc.insecure_channel(queue.address) as channel:
        asked = json_format.Parse(submit[3], task_pb2.SubmitTaskRequest())
        task = channel.unary_unary("/" + submit[5], type(asked).SerializeToString, task_pb2.Task.FromString)(asked)
        waited = json_format.Parse(wait[3], task_pb2.WaitTaskRequest())
        waited.task_id = task.task_id
        ended = channel.unary_unary("/" + wait[5], type(waited).SerializeToString, task_pb2.Task.FromString)(waited)
    assert (submit[:3], ended.result_json) == (["grpcurl", "-plaintext", "-d"], '{"words": 2}')
    assert [command[4] for command in (submit, wait)] == ["127.0.0.1:50051"] * 2
    assert Settings().broker_port == 50_051


@pytest.mark.slow
def test_the_script_of_the_documentation_starts_all_that_it_needs(postgres_url: str, tmp_path: Path) -> None:
    """From nothing to what stands there, from its own directory alone, and once more over what is there then."""
    write_page_files(tmp_path)
    with fresh_database(postgres_url) as url:
        for _ in range(2):
            assert count_words(tmp_path, tmp_path / "home", url) == page_blocks("text")[0]
        assert ask(url, "SELECT doc, n FROM public.word_counts") == [(7, 4)]
