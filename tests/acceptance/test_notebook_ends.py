"""What becomes of runs when a script, a kernel or its cluster ends: each a process of its own, over one home and one database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until

N_LINES, CHUNK_LINES = 100, 20
WAIT_S = 200  # a cluster starts, and five brokers in vain, on a busy machine
BEGIN = "import sys; import protheon_dask as protheon; cluster = protheon.local(workers=1)"
LOAD = "run = cluster.load(sys.argv[1], pipeline=sys.argv[2], chunk_lines=20); print('run', run.id, flush=True)"


class Script:
    """A process of Python, and what it has printed and said (stderr) so far."""

    def __init__(self, code: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", code, *arguments]
        self.process = subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]
        self.printed, self.said = list[str](), list[str]()
        self._readers = [
            threading.Thread(target=kept.extend, args=[stream])
            for kept, stream in ((self.printed, self.process.stdout), (self.said, self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def wait_told(self, words: str) -> None:
        """Wait until it has printed or said these words."""
        wait_until(lambda: words in self.told or self.process.poll() is not None, WAIT_S)
        assert words in self.told, f"code {self.process.poll()}: {self.told}"

    @property
    def told(self) -> str:
        return "".join([*self.printed, *self.said])

    def let_end(self) -> None:
        """Close its stdin, which is what it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait_end(self) -> int:
        self.let_end()
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        self.process.kill()
        self.let_end()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@dataclass
class Scripts:
    """Starts scripts that find one home and one database."""

    home: Path
    url: str
    arguments: tuple[str, ...]
    stack: ExitStack

    def start(self, *lines: str) -> Script:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
        env = {**kept, "PROTHEON_HOME": str(self.home), "PROTHEON_DATABASE_URL": self.url}
        script = Script("\n".join(lines), self.arguments, env)
        self.stack.callback(script.close)
        return script

    def run_state(self, run_id: int) -> tuple[str, str | None]:
        [found] = ask(self.url, "SELECT state, state_reason FROM protheon.run WHERE id = %s", run_id)
        return found

    def wait_two_chunks(self) -> None:
        wait_until(lambda: ask(self.url, "SELECT count(*) FROM protheon.task WHERE state = 'succeeded'") == [(2,)], 60)


@pytest.fixture
def scripts(database: str, tmp_path: Path, gate: Gate) -> Iterator[Scripts]:
    """argv: a file of numbers and a pipeline that loads two chunks of it and waits at the gate with the others."""
    source = write_numbers(tmp_path / "numbers.txt", N_LINES)
    pipeline = write_pipeline(tmp_path, "kept", gate.body(2, CHUNK_LINES))
    with ExitStack() as stack:
        yield Scripts(tmp_path / "home", database, (str(source), pipeline), stack)


@pytest.mark.slow
def test_a_script_that_ends_without_a_word_interrupts_its_run_and_the_next_goes_on_with_it(scripts: Scripts, gate: Gate) -> None:
    first = scripts.start(
        BEGIN,
        LOAD,
        "try:",
        "    run.wait()",
        "except KeyboardInterrupt as stopped:",
        "    print(stopped, run.progress().state, flush=True)",
        "sys.stdin.read()",
    )
    first.wait_told("run 1\n")
    scripts.wait_two_chunks()
    os.killpg(first.process.pid, signal.SIGINT)  # as a notebook's stop button does: to all of the kernel's group
    first.wait_told("run 1 goes on as long as this process lives: cluster.run(1).wait() running\n")
    children = psutil.Process(first.process.pid).children(recursive=True)
    assert first.wait_end() == 0
    said, interrupted = first.said
    assert said.startswith("scheduler, broker and 1 worker are ready after ")
    assert interrupted == "run 1 is interrupted at 40 %: loading the same again goes on with it\n"
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert scripts.run_state(1) == ("cancelled", "interrupted: its command ended; type the same again to go on")
    gate.open()
    second = scripts.start(
        BEGIN,
        "assert protheon.local() is cluster",
        "with protheon.local():",
        "    pass",
        "assert not cluster.is_closed",  # the block's cluster is also this name's
        LOAD,
        "print(run.wait(60).state, run.verify().findings)",
        "cluster.close()",
        "assert cluster.is_closed",
    )
    assert second.wait_end() == 0, second.said
    assert len(second.said) == 1  # nothing started anew
    assert second.printed == ["run 2\n", "succeeded ()\n"]
    assert numbers(scripts.url, "kept") == list(range(N_LINES))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_goes_on_when_the_script_that_ran_its_cluster_is_killed(scripts: Scripts, gate: Gate) -> None:
    owner = scripts.start(BEGIN, "print('ready', flush=True)", "sys.stdin.read()")
    owner.wait_told("ready")
    joined = scripts.start(BEGIN, LOAD, "final = run.wait(200)", "print(run.id, final.state, run.verify().findings, cluster.is_ours)")
    joined.wait_told("run 1\n")
    scripts.wait_two_chunks()
    owner.process.kill()
    joined.wait_told("the command that ran the cluster has ended: starting one of our own")
    joined.wait_told("run 1 goes on as run 2")
    gate.open()
    assert joined.wait_end() == 0, joined.said
    assert joined.printed[-1] == "2 succeeded () True\n"
    assert numbers(scripts.url, "kept") == list(range(N_LINES))
    assert scripts.run_state(1)[0] == "cancelled"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_that_is_closed_waits_for_the_runs_of_others_and_interrupts_its_own(scripts: Scripts, gate: Gate, tmp_path: Path) -> None:
    own_gate = Gate(tmp_path / "own_open")
    own = write_pipeline(tmp_path, "own", own_gate.body(0, CHUNK_LINES))
    owner = scripts.start(
        BEGIN.replace("workers=1", "workers=2"),
        f"own = cluster.load(sys.argv[1], pipeline={own!r}, chunk_lines={N_LINES})",
        "print('own', own.id, flush=True)",
        "sys.stdin.read()",
    )
    owner.wait_told("own 1\n")
    joined = scripts.start(BEGIN, LOAD, "print(run.wait(200).state)")
    joined.wait_told("run 2\n")
    scripts.wait_two_chunks()
    owner.let_end()
    owner.wait_told("run 2, of another command, still runs here: waiting for it")
    assert (owner.process.poll(), scripts.run_state(1)[0]) == (None, "running")  # its own is not waited for, and yet goes on
    gate.open()
    assert (joined.wait_end(), joined.printed[-1]) == (0, "succeeded\n"), joined.said
    assert owner.wait_end() == 0
    assert "run 1," not in owner.told
    assert scripts.run_state(1)[1] == "interrupted: its command ended; type the same again to go on"
    own_gate.open()


FAIL = """
import socket, time
import psutil
[broker] = [child for child in psutil.Process().children(recursive=True) if child.cmdline()[1:3] == ["-m", "protheon_dask.run.broker"]]
host, port = cluster.address.split(":")
with socket.socket() as taken:
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    broker.kill()
    while True:
        try:
            taken.bind((host, int(port)))
            break
        except OSError:
            pass
    taken.listen()
    while not cluster.has_failed:
        time.sleep(0.1)
try:
    run.wait()
except protheon.ProtheonError as error:
    print(error)
again = protheon.local(workers=1)
print(again is cluster, cluster.is_closed, again.is_ours, flush=True)
cluster = again
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_that_has_failed_says_so_and_the_same_cell_makes_another_one(scripts: Scripts, gate: Gate) -> None:
    gate.open()
    script = scripts.start(BEGIN, LOAD, FAIL, LOAD, "print(run.wait(100).state)")
    assert script.wait_end() == 0, script.told
    assert "it was started 5 times in vain" in script.told
    assert "False True True\n" in script.printed
    assert script.printed[-1] == "succeeded\n"
    assert numbers(scripts.url, "kept") == list(range(N_LINES))
