"""``protheon demo`` as a newcomer types it: a worker dies on the way, nothing is lost, nothing is left running, the data stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

PROTHEON = Path(sys.executable).with_name("protheon")


def environment(home: Path) -> dict[str, str]:
    """A DATABASE_URL that nobody answers: the demo does not look at it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG"))}
    return env | {"PROTHEON_HOME": str(home), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}


def protheon(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROTHEON, *arguments], env=environment(home), capture_output=True, text=True, check=False, timeout=110)


def of_home(home: Path) -> list[str]:
    """Command lines of processes that work below home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def told(home: Path) -> Any:
    done = protheon(home, "demo", "--lines", "8000", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert "killed on purpose" in done.stderr
    return json.loads(done.stdout)


def test_a_worker_is_killed_and_nothing_is_lost(told: Any) -> None:
    assert (told["state"], told["lines"], told["loaded"], told["rejected"]) == ("succeeded", 8_000, 7_994, 6)
    assert told["chunks"] >= 16
    assert told["killed"] is not None
    assert (told["taken_over"], told["lost"]) == (1, 0)
    assert told["retries"] >= 1


def test_nothing_is_left_running_and_the_data_stay(home: Path, told: Any) -> None:
    assert of_home(home) == []
    counted = protheon(home, "sql", "--database", "embedded", "--json", "select count(*) as n from pgcr.instance")
    assert json.loads(counted.stdout) == [{"n": told["loaded"]}]
    assert protheon(home, "runs", "verify", "--database", "embedded").returncode == 0
    assert of_home(home) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.usefixtures("told")
def test_nothing_is_left_running_when_the_command_itself_is_killed(home: Path) -> None:
    command = [PROTHEON, "demo", "--lines", "8000", "--workers", "2"]
    child = subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("run "):  # everything runs, and it watches
            break
    started = psutil.Process(child.pid).children(recursive=True)
    assert len(started) > 5
    child.kill()
    child.wait()
    child.stderr.close()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert of_home(home) == []


@pytest.mark.slow
def test_a_second_demo_loads_other_reports_and_its_commands_work(home: Path, told: Any) -> None:
    done = protheon(home, "demo", "--lines", "4000", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "1 chunk taken over, 0 rows lost" in done.stdout
    counted = protheon(home, "sql", "--database", "embedded", "--json", "select count(*) as n from pgcr.instance")
    assert json.loads(counted.stdout) == [{"n": told["loaded"] + 3_994}]
    commands = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("protheon ")]
    assert len(commands) == 3
    for command in commands:
        env = environment(home) | {"PATH": f"{PROTHEON.parent}{os.pathsep}{os.environ['PATH']}"}
        ran = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=False, timeout=100)
        assert (ran.returncode, bool(ran.stdout)) == (0, True), ran.stderr
    assert "1 file skipped" in ran.stdout
