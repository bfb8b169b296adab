"""Two commands at once on one home: the second uses the first one's cluster, which stays until both have what they came for."""

from __future__ import annotations

import os
import subprocess
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
        command = [str(PROTHEON), "load", *arguments, "--workers", "1", "--chunk-lines", "10"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []

    def wait_said(self, words: str) -> None:
        """Wait until it says a line with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if words in line:
                return
        pytest.fail(f"it never said {words!r}, but: {self.said}")

    def wait_end(self) -> int:
        _, rest = self.process.communicate(timeout=60)
        self.said += rest.splitlines(keepends=True)
        return self.process.returncode


def test_a_cluster_stays_until_the_run_of_another_command_has_ended(database: str, tmp_path: Path) -> None:
    home, gates = tmp_path / "home", [Gate(tmp_path / "first_open"), Gate(tmp_path / "second_open")]
    paths = [str(write_numbers(tmp_path / f"{name}.txt", N_LINES)) for name in ("first", "second")]
    pipelines = [write_pipeline(tmp_path, name, gate.body(0, 10)) for name, gate in zip(("first", "second"), gates, strict=True)]
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
