"""A tethered command ends with its owner, politely first, and with all of its group."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from protheon_dask.run.tether import UsageError, parse

TETHER = [sys.executable, "-m", "protheon_dask.run.tether"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
GONE_S = 30.0

POLITE = """
import pathlib, signal, sys, threading
said = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: said.set())
print("up", flush=True)
said.wait()
pathlib.Path(sys.argv[1]).write_text("ended politely")
sys.exit(7)
"""
STUBBORN = """
import os, signal, subprocess, sys
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(os.getpid(), grandchild.pid, flush=True)
signal.pause()
"""
OWNER = """
import subprocess, sys
tether = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
tether.wait()
"""


def tethered(*args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*TETHER, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def close_stdin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(("code", "expected"), [("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137), ("", 0)])
def test_the_exit_code_of_the_command_is_passed_on(code: str, expected: int) -> None:
    with tethered("--", sys.executable, "-c", code) as tether:
        assert tether.wait(GONE_S) == expected


def test_at_the_end_of_file_the_command_is_asked_to_end(tmp_path: Path) -> None:
    with tethered("--", sys.executable, "-c", POLITE, tmp_path / "word") as tether:
        assert read_line(tether) == "up"
        close_stdin(tether)
        assert tether.wait(GONE_S) == 7
    assert (tmp_path / "word").read_text() == "ended politely"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_tether_ends_the_command_too(signum: signal.Signals, tmp_path: Path) -> None:
    with tethered("--", sys.executable, "-c", POLITE, tmp_path / "word") as tether:
        assert read_line(tether) == "up"
        tether.send_signal(signum)
        assert tether.wait(GONE_S) == 7


def test_a_stubborn_command_is_killed_after_the_grace_with_its_children() -> None:
    with tethered("--grace", "0.1", "--signals", "INT,TERM", "--", sys.executable, "-c", STUBBORN) as tether:
        processes = [psutil.Process(int(pid)) for pid in read_line(tether).split()]
        close_stdin(tether)
        assert tether.wait(GONE_S) == 128 + signal.SIGKILL
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []


def test_the_command_ends_when_the_owner_is_killed(tmp_path: Path) -> None:
    command = [*TETHER, "--", sys.executable, "-c", POLITE, str(tmp_path / "word")]
    with subprocess.Popen([sys.executable, "-c", OWNER, *command], stdout=subprocess.PIPE, text=True) as owner:
        assert read_line(owner) == "up"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) == 2
        owner.kill()
    _, alive = psutil.wait_procs(family, timeout=GONE_S)
    assert alive == []
    assert (tmp_path / "word").read_text() == "ended politely"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has death signals")
def test_the_command_ends_when_the_tether_itself_is_killed(tmp_path: Path) -> None:
    with tethered("--", sys.executable, "-c", POLITE, tmp_path / "word") as tether:
        assert read_line(tether) == "up"
        [child] = psutil.Process(tether.pid).children()
        tether.kill()
        psutil.wait_procs([child], timeout=GONE_S)
    assert (tmp_path / "word").read_text() == "ended politely"


@pytest.mark.parametrize(
    "args", [[], ["--"], ["true"], ["--grace", "x", "--", "true"], ["--signals", "NONE", "--", "true"], ["--other", "1", "--", "true"]]
)
def test_wrong_usage_is_told(args: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(args)


def test_a_command_that_is_not_there_is_told() -> None:
    done = subprocess.run([*TETHER, "--", "/nonexistent/command"], stdin=subprocess.PIPE, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "/nonexistent/command" in done.stderr


def test_the_tether_imports_little() -> None:
    code = "import sys, protheon_dask.run.tether; print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()).stdout.split()
    assert set(loaded) <= {"protheon_dask", "__main__"}
