"""A replay that dies is typed again: kill -9 of the whole command at several points doubles and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protheon_dask.run import api
from tests.acceptance.conftest import Gate, numbers
from tests.acceptance.test_replay import marked, pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.shell import Shell, shell_over

N_LINES = 4_000
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]


def chunks_done(shell: Shell) -> int:
    """Chunks of replays that are loaded."""
    done = "SELECT count(*) FROM protheon.task JOIN protheon.load ON load.id = load_id WHERE replay_of > 0 AND state = 'succeeded'"
    return int(ask(shell.url, done)[0][0])


@pytest.fixture
def shell(database: str, tmp_path: Path) -> Iterator[Shell]:
    with shell_over(tmp_path / "home", database, PROTHEON_CHUNK_LINES="500") as made:
        yield made


def spool_is_begun(shell: Shell) -> bool:
    """A spool is being written."""
    return any((shell.home / "workspace" / "replays").glob("*/*run-*"))


def load_is_made(shell: Shell) -> bool:
    """The replay is submitted."""
    return bool(ask(shell.url, "SELECT 1 FROM protheon.load WHERE replay_of IS NOT NULL"))


def some_is_loaded(shell: Shell) -> bool:
    """Three of eight chunks are loaded, and two wait in the middle."""
    return chunks_done(shell) == 3


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
