"""Scheduler, broker, workers and PostgreSQL are killed, frozen and stopped under a load: it goes on by itself, and nobody is charged."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from protheon_dask.errors import ProtheonError
from protheon_dask.pipelines.find import find
from protheon_dask.telemetry.statistics import RunStatistics
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import local_cluster, wait_until
from tests.fixtures.own_postgres import OwnServer
from tests.fixtures.postgres import find_test_binaries, scratch_dir
from tests.fixtures.web import WebServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

CHUNK_LINES, CHUNK_S, N_CHUNKS, N_WORKERS = 100, 0.7, 20, 2
LINES = range(CHUNK_LINES * N_CHUNKS)
FULL_SPEED_S = 30.0  # after the scheduler was killed
FIRST_CHUNK_S = 10.0  # after the broker was killed; with PostgreSQL 15 s after its return
SLACK = 2.0  # what those times may be exceeded by on a busy machine, as a factor


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with scratch_dir() as root:
        server = OwnServer(find_test_binaries(), root, {"synchronous_commit": "on"})  # else an immediate stop forgets what was committed
        server.make()
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def supervised(own_server: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One cluster for all faults: what one of them leaves behind, the next one meets."""
    own_server.execute("CREATE DATABASE kept")
    directory = tmp_path_factory.mktemp("supervised")
    url = own_server.url("kept")
    with local_cluster(directory / "home", url, N_WORKERS, lease_s=10, renew_s=2, stall_s=30, exit_grace_s=4) as cluster:
        yield World(cluster, url, directory)


@dataclass
class Load:
    """A run in its middle, watched as a command watches it."""

    world: World
    name: str
    run_id: int
    pictures: list[RunStatistics] = field(default_factory=list)
    error: ProtheonError | None = None
    thread: threading.Thread = field(default_factory=threading.Thread)

    def watch(self) -> None:
        try:
            for picture in self.world.cluster.client.watch(self.run_id):
                self.pictures.append(picture)
        except ProtheonError as exc:
            self.error = exc

    def reasons(self) -> list[str]:
        return [picture.reason for picture in self.pictures if picture.reason is not None]

    def wait_reason(self, words: str) -> str:
        """A picture that says what is waited for, and since when."""
        said = wait_until(lambda: [reason for reason in self.reasons() if words in reason], 40)[0]
        assert said.startswith("since "), said
        return str(said)

    def first_commit_s(self, since_s: float, n: int = 1) -> float:
        """Seconds from then (time.time()) to the end of the n-th attempt that was begun after it and succeeded."""

        def look() -> list[tuple[float]]:
            """a chunk is begun and committed"""
            try:
                return self.world.ask(
                    "SELECT extract(epoch FROM ended_at)::float8 FROM protheon.attempt WHERE run_id = %s AND outcome = 'succeeded'"
                    " AND started_at > to_timestamp(%s) ORDER BY ended_at",
                    self.run_id,
                    since_s,
                )[n - 1 :]
            except Exception:  # noqa: BLE001  # PostgreSQL is away, or begins to be back
                return []

        return float(wait_until(look, 90)[0][0]) - since_s

    def assert_whole(self, *, costs: frozenset[str] = frozenset({"nothing"})) -> None:
        """Every number is there once, nothing was charged but these costs, no attempt is open and no file left."""
        self.thread.join(120)
        assert not self.thread.is_alive()
        assert self.error is None
        final = self.pictures[-1]
        assert (final.state, final.lines, final.loaded) == ("succeeded", len(LINES), len(LINES)), final.reason
        assert numbers(self.world.url, self.name) == list(LINES)
        found = self.world.ask("SELECT cost, outcome, message FROM protheon.attempt WHERE run_id = %s AND cost IS NOT NULL", self.run_id)
        assert {cost for cost, _, _ in found} <= costs, found
        assert self.world.ask("SELECT count(*) FROM protheon.attempt WHERE run_id = %s AND ended_at IS NULL", self.run_id) == [(0,)]
        assert self.world.findings(self.run_id) == ()
        wait_until(lambda: not list(Path(self.world.cluster.settings.home).glob("workspace/*/*/*.zst")), 15)


Begin = Callable[[str], Load]


@pytest.fixture
def begin(supervised: World, tmp_path: Path) -> Iterator[Begin]:
    """Submits chunks of CHUNK_S, and waits until two are in and the workers are at the next."""
    with ExitStack() as stack:

        def start(name: str) -> Load:
            body = f"if n % {CHUNK_LINES} == 0:\n    time.sleep({CHUNK_S})"
            source = write_numbers(tmp_path / f"{name}.txt", len(LINES))
            submitted = supervised.submit(write_pipeline(tmp_path, name, body), source, chunk_lines=CHUNK_LINES)
            load = Load(supervised, name, submitted.run_id)
            load.thread = threading.Thread(target=load.watch, daemon=True)
            load.thread.start()
            stack.callback(load.thread.join, 10)
            wait_until(lambda: any(picture.chunks_done >= 2 and picture.chunks_running for picture in load.pictures), 60)
            return load

        yield start


def processes_of(world: World, part: str) -> list[psutil.Process]:
    """The part's own process and all that it started; its tether is not among them."""
    return psutil.Process(world.cluster._processes[part].process.pid).children(recursive=True)


def kill(world: World, *parts: str) -> float:
    """kill -9 of the parts, the process itself first; when that was."""
    for part in parts:
        for process in processes_of(world, part):
            try:
                process.kill()
            except psutil.NoSuchProcess:  # it ended with its parent
                continue
    return time.time()


@pytest.mark.slow
def test_a_scheduler_that_is_killed_comes_back_with_its_workers_and_the_run_goes_on(supervised: World, begin: Begin) -> None:
    load = begin("scheduler_killed")
    killed_s = kill(supervised, "scheduler")
    load.wait_reason("the Dask scheduler does not answer")
    full_speed_s = load.first_commit_s(killed_s + CHUNK_S, 2 * N_WORKERS)  # what was begun before is finished: it is none of these
    print(f"scheduler killed: full speed after {full_speed_s:.1f} s")
    assert full_speed_s < FULL_SPEED_S * SLACK
    load.assert_whole()


@pytest.mark.slow
def test_a_broker_that_is_killed_comes_back_on_its_port_and_goes_on_with_its_runs(supervised: World, begin: Begin, tmp_path: Path) -> None:
    load = begin("broker_killed")
    address, [before] = supervised.cluster.client.address, processes_of(supervised, "broker")[:1]
    attempts = dict(supervised.ask("SELECT id, attempt_no FROM protheon.task WHERE state = 'running'"))
    killed_s = kill(supervised, "broker")
    meanwhile = supervised.submit(write_pipeline(tmp_path, "meanwhile"), write_numbers(tmp_path / "meanwhile.txt", 10))  # it waits, too
    load.wait_reason(f"no master answers at {address}")
    first_s = load.first_commit_s(killed_s + 2 * CHUNK_S)  # begun after the splitters and workers could still be at what they had
    print(f"broker killed: first new chunk after {first_s + 2 * CHUNK_S:.1f} s")
    assert first_s < FIRST_CHUNK_S * SLACK
    assert processes_of(supervised, "broker")[0].pid != before.pid
    load.assert_whole()
    assert supervised.finish(meanwhile.run_id).loaded == 10
    for task_id, attempt_no in attempts.items():  # a broker's end costs no chunk that runs
        assert supervised.ask("SELECT count(*) FROM protheon.attempt WHERE task_id = %s AND attempt_no > %s", task_id, attempt_no) == [(0,)]


@pytest.mark.slow
def test_a_frozen_scheduler_is_found_by_its_health_page_and_replaced(supervised: World, begin: Begin) -> None:
    load = begin("scheduler_frozen")
    [frozen] = processes_of(supervised, "scheduler")[:1]
    frozen.suspend()
    frozen_s = time.time()
    load.wait_reason("the Dask scheduler does not answer")
    full_speed_s = load.first_commit_s(frozen_s + 4 * CHUNK_S, 2 * N_WORKERS)
    print(f"scheduler frozen: full speed after {full_speed_s + 4 * CHUNK_S:.1f} s")
    assert full_speed_s < (FULL_SPEED_S + 10) * SLACK
    assert not psutil.pid_exists(frozen.pid)
    load.assert_whole()


@pytest.mark.slow
def test_workers_that_are_killed_with_all_around_them_come_back(supervised: World, begin: Begin) -> None:
    """Their host is lost, as far as the scheduler can tell: that is a loss for what they had in hand, and nothing worse."""
    load = begin("workers_killed")
    killed_s = kill(supervised, "workers")
    load.wait_reason("no worker is with the Dask scheduler")
    print(f"workers killed: first new chunk after {load.first_commit_s(killed_s):.1f} s")
    load.assert_whole(costs=frozenset({"nothing", "loss"}))


@pytest.mark.slow
def test_a_worker_that_is_frozen_while_the_scheduler_is_replaced_keeps_no_other_from_coming_back(supervised: World, begin: Begin) -> None:
    load = begin("frozen_beside")
    (_, pid), *_ = supervised.cluster.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    killed_s = kill(supervised, "scheduler")
    print(f"scheduler killed beside a frozen worker: full speed after {load.first_commit_s(killed_s + CHUNK_S, 2 * N_WORKERS):.1f} s")
    load.assert_whole(costs=frozenset({"nothing", "loss"}))
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["scheduler first", "broker first"])
def test_scheduler_and_broker_are_killed_together(supervised: World, begin: Begin, order: str) -> None:
    parts = ["scheduler", "broker"] if order == "scheduler first" else ["broker", "scheduler"]
    load = begin("both_" + parts[0])
    killed_s = kill(supervised, *parts)
    print(f"{order}: full speed after {load.first_commit_s(killed_s + CHUNK_S, 2 * N_WORKERS):.1f} s")
    load.assert_whole()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [(), ("broker",), ("scheduler", "broker")], ids=["alone", "with the broker", "with scheduler and broker"])
def test_postgres_is_stopped_at_once_and_started_in_the_midst(
    supervised: World, begin: Begin, own_server: OwnServer, parts: tuple[str, ...]
) -> None:
    load = begin("postgres_" + "_".join(parts))
    own_server.signal(signal.SIGQUIT)
    kill(supervised, *parts)
    load.wait_reason("does not answer" if not parts else "no master answers at")
    own_server.start()
    back_s = time.time()
    first_s = load.first_commit_s(back_s)
    print(f"PostgreSQL stopped {parts}: first new commit {first_s:.1f} s after its return")
    assert first_s < 15.0 * SLACK
    load.assert_whole()


@pytest.mark.slow
def test_a_password_that_only_the_dead_broker_knew_is_missed_in_words_and_given_by_typing_the_command_again(
    supervised: World, tmp_path: Path, web_server: WebServer, gate: Gate
) -> None:
    """It is in no ledger. It is missed where a source must be read on, here because files of the workspace are lost as well."""
    web_server.add("/locked", b"".join(b"%d\n" % n for n in LINES), password="ann:w0rd")
    pipeline = write_pipeline(tmp_path, "locked_source", gate.body(2, CHUNK_LINES))
    url = web_server.url("/locked", "ann:w0rd")

    def submit() -> int:
        return supervised.cluster.client.submit(find(pipeline, paths=[url]), [url], chunk_lines=CHUNK_LINES).run_id

    run_id = submit()
    supervised.wait_chunks_done(run_id, 2)
    wait_until(lambda: supervised.ask("SELECT n_chunks FROM protheon.load ORDER BY id DESC LIMIT 1") == [(N_CHUNKS,)])
    kill(supervised, "broker")
    for path in Path(supervised.cluster.settings.home).glob("workspace/*/*/*.zst"):
        path.unlink()
    gate.open()
    paused = supervised.finish(run_id)
    assert paused.state == "paused"
    assert paused.reason is not None
    assert "the master that knew its password has ended: type the same command again" in paused.reason
    assert "w0rd" not in paused.reason
    again = supervised.finish(submit())
    assert (again.state, again.lines) == ("succeeded", len(LINES)), again.reason
    assert numbers(supervised.url, "locked_source") == list(LINES)
