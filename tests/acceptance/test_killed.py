"""kill -9 of the whole command, of its parts, and a second cluster on one ledger: nothing is left behind, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protheon_dask.run import api
from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.postgres import fresh_database
from tests.fixtures.processes import of_home

PROTHEON = Path(sys.executable).with_name("protheon")
N_LINES = 8_000
START_S, END_S = 60.0, 30.0  # a cluster's start and end on a busy machine
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@dataclass
class Command:
    """``protheon load`` of one file through one pipeline, as a person types it, again and again."""

    home: Path
    url: str
    arguments: list[str]
    started: list[subprocess.Popen[bytes]]

    def type(self, *more: str, home: Path | None = None) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
        env = {**kept, "PROTHEON_HOME": str(home or self.home), "PROTHEON_DATABASE_URL": self.url}
        command = [str(PROTHEON), "load", *self.arguments, *more, "--workers", "2", "--json"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def wait_chunks_done(self, n: int) -> None:
        done = "SELECT count(*) FROM protheon.task WHERE state = 'succeeded'"
        wait_until(lambda: ask(self.url, "SELECT to_regclass('protheon.task') IS NOT NULL") == [(True,)], START_S)
        wait_until(lambda: ask(self.url, done)[0][0] >= n, START_S)


@pytest.fixture
def command(database: str, tmp_path: Path, gate: Gate) -> Iterator[Command]:
    """Chunks of 1,000 lines, of which three pass and the others wait at the gate."""
    source = write_numbers(tmp_path / "n.txt", N_LINES)
    pipeline = write_pipeline(tmp_path, "killed", gate.body(3, 1_000))
    made = Command(tmp_path / "home", database, [str(source), "--pipeline", pipeline, "--chunk-lines", "1000"], [])
    yield made
    gate.open()
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def assert_goes_on(command: Command, gate: Gate, *, loaded_before: int) -> None:
    """Typing it again loads the rest, and nothing twice; another geometry is what the first split fixed."""
    gate.open()
    again = command.type("--chunk-lines", "700")
    out, err = again.communicate(timeout=2 * START_S)
    assert again.returncode == 0, err.decode()
    told = json.loads(out)
    assert (told["state"], told["lines"], told["loaded"]) == ("succeeded", N_LINES, N_LINES)
    assert f"goes on: {loaded_before} of" in err.decode()
    assert "--chunk-lines is ignored: the load was begun with 1000 lines a chunk" in err.decode()
    assert numbers(command.url, "killed") == list(range(N_LINES))
    by_run = ask(command.url, "SELECT run_id, count(*) FROM protheon.attempt WHERE outcome = 'succeeded' GROUP BY run_id ORDER BY run_id")
    assert by_run == [(1, loaded_before), (2, N_LINES // 1_000 - loaded_before)]
    assert api.verify_run(command.url).findings == ()
    # a broker that ends later than its workers by a moment sees them go: a loss, and nothing that the chunk is to blame for
    assert ask(command.url, "SELECT attempt_no, outcome, cost, message FROM protheon.attempt WHERE cost NOT IN ('nothing', 'loss')") == []


def test_a_command_that_is_killed_leaves_no_process_and_typing_it_again_goes_on(command: Command, gate: Gate) -> None:
    process = command.type()
    command.wait_chunks_done(3)
    wait_until(lambda: len(of_home(command.home)) >= 8)  # the command; tether and child of scheduler, broker and workers; two workers
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not of_home(command.home), END_S)
    assert len(numbers(command.url, "killed")) == 3_000
    assert_goes_on(command, gate, loaded_before=3)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["broker", pytest.param("scheduler", marks=pytest.mark.slow)])
def test_a_part_that_is_killed_is_started_again_and_the_command_goes_on(command: Command, gate: Gate, part: str) -> None:
    process = command.type()
    command.wait_chunks_done(3)
    module = {"broker": "protheon_dask.run.broker", "scheduler": "scheduler"}[part]
    [victim] = [p for p in of_home(command.home) if module in p.cmdline() and "protheon_dask.run.tether" not in p.cmdline()]
    victim.kill()
    gate.open()
    out, err = process.communicate(timeout=2 * START_S)
    assert process.returncode == 0, err.decode()
    assert f"the {part} ended, killed by signal 9 (SIGKILL)" in err.decode()
    told = json.loads(out)
    assert (told["state"], told["lines"], told["loaded"]) == ("succeeded", N_LINES, N_LINES)
    assert numbers(command.url, "killed") == list(range(N_LINES))
    assert ask(command.url, "SELECT DISTINCT cost FROM protheon.attempt") == [("nothing",)]
    assert api.verify_run(command.url).findings == ()
    wait_until(lambda: not of_home(command.home), END_S)


@pytest.mark.slow
def test_a_second_command_uses_the_cluster_that_runs_and_a_second_cluster_is_refused(command: Command, gate: Gate, tmp_path: Path) -> None:
    """One broker leads a ledger: the same user's command joins it, and another home's says so and leaves it alone."""
    first = command.type()
    command.wait_chunks_done(3)
    stranger = command.type(home=tmp_path / "another home")
    _, err = stranger.communicate(timeout=2 * START_S)
    assert stranger.returncode == 2, err.decode()
    assert "another broker leads this ledger already" in err.decode()
    wait_until(lambda: not of_home(tmp_path / "another home"), END_S)

    n_processes = len(of_home(command.home))
    second = command.type()
    wait_until(lambda: ask(command.url, "SELECT count(*) FROM protheon.run_load WHERE joined = 'attached'") == [(1,)])
    assert len(of_home(command.home)) == n_processes + 1
    gate.open()
    for process in (second, first):
        out, err = process.communicate(timeout=2 * START_S)
        assert process.returncode == 0, err.decode()
        assert json.loads(out)["lines"] == N_LINES
    assert numbers(command.url, "killed") == list(range(N_LINES))


@pytest.mark.slow
def test_the_same_command_typed_twice_at_the_same_moment_loads_once_and_both_end_well(database: str, tmp_path: Path) -> None:
    source = write_numbers(tmp_path / "twice.txt", 2_000)
    command = Command(tmp_path / "home", database, [str(source), "--pipeline", write_pipeline(tmp_path, "twice")], [])
    for process in [command.type(), command.type()]:
        _, err = process.communicate(timeout=2 * START_S)
        assert process.returncode == 0, err.decode()
    assert numbers(database, "twice") == list(range(2_000))


@pytest.mark.slow
def test_two_clusters_that_start_at_once_find_ports_of_their_own(database: str, postgres_url: str, tmp_path: Path) -> None:
    with fresh_database(postgres_url) as other:
        commands = []
        for url, name in ((database, "one"), (other, "two")):
            source = write_numbers(tmp_path / f"{name}.txt", 100)
            commands.append(Command(tmp_path / name, url, [str(source), "--pipeline", write_pipeline(tmp_path, name)], []))
        started = [command.type() for command in commands]
        for process, command, name in zip(started, commands, ("one", "two"), strict=True):
            _, err = process.communicate(timeout=2 * START_S)
            assert process.returncode == 0, err.decode()
            assert numbers(command.url, name) == list(range(100))
            assert ask(command.url, "SELECT DISTINCT outcome FROM protheon.attempt") == [("succeeded",)]
