"""A replay that dies is typed again: kill -9 of the whole command at several points doubles and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protheon_dask.run import api
from tests.acceptance.conftest import Gate, numbers
from tests.acceptance.test_replay import marked, pipeline
from tests.fixtures.cluster import ask, wait_until

PROTHEON = Path(sys.executable).with_name("protheon")
N_LINES = 4_000
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]


@dataclass
class Shell:
    """Commands over one database and one home, as a person types them."""

    home: Path
    url: str
    started: list[subprocess.Popen[bytes]]

    def type(self, *arguments: object) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
        env = {**kept, "PROTHEON_HOME": str(self.home), "PROTHEON_DATABASE_URL": self.url, "PROTHEON_CHUNK_LINES": "500"}
        process = subprocess.Popen(
            [str(PROTHEON), *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.started.append(process)
        return process

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        process = self.type(*arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out.decode(), err.decode()

    def chunks_done(self) -> int:
        """Chunks of replays that are loaded."""
        done = "SELECT count(*) FROM protheon.task JOIN protheon.load ON load.id = load_id WHERE replay_of > 0 AND state = 'succeeded'"
        return int(ask(self.url, done)[0][0])


@pytest.fixture
def shell(database: str, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path / "home", database, [])
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def spool_is_begun(shell: Shell) -> bool:
    """A spool is being written."""
    return any((shell.home / "workspace" / "replays").glob("*/*run-*"))


def load_is_made(shell: Shell) -> bool:
    """The replay is submitted."""
    return bool(ask(shell.url, "SELECT 1 FROM protheon.load WHERE replay_of IS NOT NULL"))


def some_is_loaded(shell: Shell) -> bool:
    """Three of eight chunks are loaded, and two wait in the middle."""
    return shell.chunks_done() == 3


@pytest.mark.parametrize("point", [spool_is_begun, load_is_made, some_is_loaded])
def test_a_replay_whose_command_is_killed_is_typed_again(shell: Shell, gate: Gate, tmp_path: Path, point: Callable[[Shell], bool]) -> None:
    source = marked(tmp_path / "n.txt", "b" * N_LINES)
    code, out, err = shell.run("load", source, "--pipeline", pipeline(tmp_path, "dead", "b"), "--reject-limit", "100%", "--workers", 2)
    assert code == 0, out + err
    typed = ("rejects", "replay", "--pipeline", pipeline(tmp_path, "dead", "", gate.body(3, 500)), "--workers", 2, "--json")
    killed = shell.type(*typed)
    wait_until(lambda: point(shell))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    gate.open()

    code, out, err = shell.run(*typed)
    assert code == 0, out + err
    done = json.loads(out)
    assert (done["state"], done["rejected"]) == ("succeeded", 0)
    if point is some_is_loaded:
        assert done["lines"] <= N_LINES - 1_500
    assert numbers(shell.url, "dead") == list(range(N_LINES))
    assert api.verify_run(shell.url, 1).findings == ()
    assert api.verify_run(shell.url, done["run"]).findings == ()
    assert list((shell.home / "workspace" / "replays").rglob("*.zst")) == []


def test_a_paused_run_is_resumed_with_no_master_running(shell: Shell, tmp_path: Path) -> None:
    source = marked(tmp_path / "n.txt", "ob" * (N_LINES // 2))
    spec = pipeline(tmp_path, "resumed_alone", "b")
    code, out, err = shell.run("load", source, "--pipeline", spec, "--reject-limit", 300, "--workers", 2)
    assert code == 1, out + err
    assert "to go on: protheon runs resume 1 --reject-limit N|P%" in out
    code, out, err = shell.run("runs", "resume", 1, "--reject-limit", "100%", "--workers", 2, "--json")
    assert code == 0, out + err
    assert json.loads(out)["rejected"] == N_LINES // 2
    assert numbers(shell.url, "resumed_alone") == list(range(0, N_LINES, 2))
    assert shell.run("runs", "pause", 1)[1].startswith("run 1 had ended already: succeeded")


def test_a_replay_that_is_paused_goes_on_in_another_cluster(shell: Shell, gate: Gate, tmp_path: Path) -> None:
    source = marked(tmp_path / "n.txt", "b" * N_LINES)
    code, out, err = shell.run("load", source, "--pipeline", pipeline(tmp_path, "moved_on", "b"), "--reject-limit", "100%", "--workers", 2)
    assert code == 0, out + err
    held = shell.type("rejects", "replay", "--pipeline", pipeline(tmp_path, "moved_on", "", gate.body(3, 500)), "--workers", 2)
    wait_until(lambda: some_is_loaded(shell))
    assert shell.run("runs", "pause", 2)[0] == 0
    gate.open()
    assert held.wait(60) == 1
    assert len(list((shell.home / "workspace" / "replays").rglob("*.zst"))) == 1

    code, out, err = shell.run("runs", "resume", 2, "--workers", 2, "--json")
    assert code == 0, out + err
    assert (json.loads(out)["run"], json.loads(out)["loaded"]) == (2, N_LINES)
    assert numbers(shell.url, "moved_on") == list(range(N_LINES))
    assert api.verify_run(shell.url, 1).findings == api.verify_run(shell.url, 2).findings == ()
