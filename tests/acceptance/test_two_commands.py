"""Two commands at once on one home: the second uses the first one's cluster, which stays until both have what they came for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.acceptance.test_cli_load import PROTHEON, environment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
N_LINES = 20


class Command:
    """A load in a process of its own, and the lines that it says."""

    def __init__(self, home: Path, url: str, *arguments: str) -> None:
        env = {**environment(home), "PROTHEON_DATABASE_URL": url}
        command = [str(PROTHEON), "load", *arguments, "--workers", "1"]  # one chunk each: no other waits for a worker that waits
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self.printed = ""

    def wait_said(self, words: str) -> None:
        """Wait until it says a line with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if words in line:
                return
        pytest.fail(f"it never said {words!r}, but: {self.said}")

    def wait_end(self) -> int:
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        late = threading.Timer(60, self.process.kill)
        late.start()
        self.said += self.process.stderr.readlines()  # communicate() would lose what was read ahead
        self.printed = self.process.stdout.read()
        late.cancel()
        return self.process.wait()


@pytest.mark.slow
def test_a_cluster_stays_until_the_run_of_another_command_has_ended(database: str, tmp_path: Path) -> None:
    home, gates = tmp_path / "home", [Gate(tmp_path / "first_open"), Gate(tmp_path / "second_open")]
    paths = [str(write_numbers(tmp_path / f"{name}.txt", N_LINES)) for name in ("first", "second")]
    pipelines = [write_pipeline(tmp_path, name, gate.body(0, N_LINES)) for name, gate in zip(("first", "second"), gates, strict=True)]
    first = Command(home, database, paths[0], "--pipeline", pipelines[0])
    started = [first]
    try:
        first.wait_said("run 1;")
        second = Command(home, database, paths[1], "--pipeline", pipelines[1])
        started.append(second)
        second.wait_said("run 2;")

        detached = [str(PROTHEON), "load", paths[1], "--pipeline", pipelines[1], "--detach"]
        env = {**environment(home), "PROTHEON_DATABASE_URL": database}
        refused = subprocess.run(detached, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 2
        assert "ends with the command that started it" in refused.stderr

        gates[0].open()
        first.wait_said("run 2, of another command, still runs here")
        assert second.process.poll() is None
        gates[1].open()
        assert second.wait_end() == 0, second.said
        assert first.wait_end() == 0, first.said
    finally:
        for command in started:
            command.process.kill()
            command.process.communicate()
    assert sum("of another command" in line for line in first.said) == 1
    assert numbers(database, "first") == numbers(database, "second") == list(range(N_LINES))


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_commands_whose_cluster_ends_with_another_command_go_on_by_themselves(
    database: str, tmp_path: Path, signum: signal.Signals
) -> None:
    home, names = tmp_path / "home", ("first", "second", "third")
    gates = {name: Gate(tmp_path / f"{name}_open") for name in names}
    paths = {name: str(write_numbers(tmp_path / f"{name}.txt", N_LINES)) for name in names}
    pipelines = {name: write_pipeline(tmp_path, name, gate.body(0, N_LINES)) for name, gate in gates.items()}
    commands: dict[str, Command] = {}
    try:
        for n, name in enumerate(names, start=1):
            commands[name] = Command(home, database, paths[name], "--pipeline", pipelines[name], "--json")
            commands[name].wait_said(f"run {n};")
        first, survivors = commands["first"], [commands["second"], commands["third"]]
        first.process.send_signal(signum)  # whose parent does not ask after it: it stays a zombie
        for survivor, old in zip(survivors, (2, 3), strict=True):
            survivor.wait_said(f"run {old} goes on as run")
        for gate in gates.values():
            gate.open()
        assert [survivor.wait_end() for survivor in survivors] == [0, 0], [survivor.said for survivor in survivors]
        first.wait_end()
    finally:
        for command in commands.values():
            command.process.kill()
            command.process.communicate()
    for survivor, name in zip(survivors, names[1:], strict=True):
        assert sum("the command that ran the cluster has ended" in line for line in survivor.said) == 1, survivor.said
        told = json.loads(survivor.printed)
        assert (told["state"], told["lines"], told["loaded"]) == ("succeeded", N_LINES, N_LINES)
        assert any(f"goes on as run {told['run']}" in line for line in survivor.said), survivor.said
        assert numbers(database, name) == list(range(N_LINES))
    started = [sum(" are ready after " in line for line in survivor.said) for survivor in survivors]
    assert sorted(started) == [0, 1], "one starts a cluster, the other uses it"
