"""Real children that die, freeze and cannot start: who is started again, how soon, and when that is an error for good."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from protheon_dask.errors import BrokerUnavailable, ConfigError
from protheon_dask.run import supervise
from protheon_dask.run.parts import bound_port
from protheon_dask.run.supervise import Part, Supervised, Tethered, http_probe, port_probe
from tests.fixtures.cluster import wait_until
from tests.fixtures.processes import has_ended

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

Probe = Callable[[], object] | None

LIVES = "import sys, time; print(sys.argv[1:], flush=True); time.sleep(600)"
FAILS = "import sys; print('port 1 is taken', file=sys.stderr); sys.exit(int(sys.argv[1]))"
SERVES = """
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


@dataclass
class Kept:
    """A supervised part, and what it told."""

    supervised: Supervised
    events: queue.Queue[str]
    again: list[float]
    ended: list[Supervised]

    def child(self) -> psutil.Process:
        """The process of now, once it is there."""

        def found() -> list[psutil.Process]:
            try:
                return psutil.Process(self.supervised.process.pid).children()
            except psutil.NoSuchProcess:
                return []

        [child] = wait_until(found)
        return psutil.Process(child.pid)

    def wait_again(self, n: int) -> None:
        """Wait until it was started again so often."""
        wait_until(lambda: len(self.again) == n)

    def first_line(self) -> str:
        return str(wait_until(lambda: self.supervised._current.has_spoken and self.supervised.first_line(10)))


@dataclass
class Starter:
    directory: Path
    stack: ExitStack = field(default_factory=ExitStack)
    grace_s: float = 2.0

    def __call__(self, code: str, *arguments: str, keep: bool = True, probe: Probe = None, needs: Probe = None) -> Kept:
        events: queue.Queue[str] = queue.Queue()
        again: list[float] = []
        ended: list[Supervised] = []
        part = Part("thing", ["-c", code, *arguments], os.environ, self.directory / "thing.log", self.grace_s, ["--again"], probe, needs)
        made = Supervised(part, on_event=events.put, on_again=again.append, on_end=ended.append)
        self.stack.enter_context(made)
        if keep:
            made.keep()
        return Kept(made, events, again, ended)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.02)
    with ExitStack() as stack:
        yield Starter(tmp_path, stack)


def test_a_process_that_is_killed_is_started_again_with_what_its_later_starts_are_told(start: Starter) -> None:
    kept = start(LIVES, "--one")
    assert kept.first_line() == "['--one']\n"
    for n in (1, 2):
        before = kept.child()
        before.kill()
        assert kept.events.get(timeout=10).startswith("the thing ended, killed by signal 9 (SIGKILL) (see ")
        kept.wait_again(n)
        assert kept.first_line() == "['--one', '--again']\n"
        assert kept.child().pid != before.pid
    kept.supervised.check()
    assert (start.directory / "thing.log").read_text() == "['--one']\n" + 2 * "['--one', '--again']\n"


def test_the_pause_before_a_start_grows_and_is_forgotten_after_some_time_of_health(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(supervise, "MAX_PAUSE_S", 0.4)
    kept = start(LIVES)
    pauses_s = []
    for n in range(1, 6):
        if n == 5:
            monkeypatch.setattr(supervise, "HEALTHY_S", 0.0)
        kept.first_line()
        kept.child().kill()
        kept.events.get(timeout=10)
        told_s = time.monotonic()
        kept.wait_again(n)
        pauses_s.append(time.monotonic() - told_s)
    assert all(pause_s >= least_s for pause_s, least_s in zip(pauses_s, (0.1, 0.2, 0.4, 0.4, 0.1), strict=True))
    assert kept.again == sorted(kept.again)
    assert pauses_s[4] < pauses_s[3] + 0.1


@pytest.mark.parametrize(("code", "error"), [("1", BrokerUnavailable), ("2", ConfigError)])
def test_a_process_that_cannot_start_at_all_is_an_error_with_its_last_words(start: Starter, code: str, error: type[Exception]) -> None:
    kept = start(FAILS, code)
    wait_until(lambda: kept.ended)
    assert kept.ended == [kept.supervised]
    with pytest.raises(
        error, match=rf"the thing ended with code {code}: port 1 is taken \(see .*thing\.log\); it was started 5 times in vain"
    ):
        kept.supervised.check()
    assert len(kept.again) == supervise.MAX_QUICK_ENDS - 1


def test_a_process_that_waits_long_before_its_usage_error_cannot_start_either(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker waits for the lead, and says only then that another has it."""
    monkeypatch.setattr(supervise, "MAX_PAUSE_S", 0.02)
    monkeypatch.setattr(supervise, "QUICK_S", 0.0)
    kept = start(FAILS, "2")
    wait_until(lambda: kept.ended)
    with pytest.raises(ConfigError, match="it was started 5 times in vain"):
        kept.supervised.check()


@pytest.mark.parametrize("code", ["0", "75", "137"])
def test_ends_that_are_no_failure_to_start_are_borne_without_end(start: Starter, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """0: `dask worker` whose scheduler went; 75: what it needs is away; 137: somebody kills it."""
    monkeypatch.setattr(supervise, "MAX_PAUSE_S", 0.02)
    kept = start(FAILS, code)
    wait_until(lambda: len(kept.again) > supervise.MAX_QUICK_ENDS)
    kept.supervised.check()
    assert not kept.ended


def test_an_end_before_it_is_to_be_kept_is_final(start: Starter) -> None:
    kept = start(FAILS, "1", keep=False)
    wait_until(lambda: kept.ended)
    with pytest.raises(BrokerUnavailable, match="the thing ended with code 1: port 1 is taken"):
        kept.supervised.check()
    assert kept.again == []


def test_a_frozen_process_is_found_by_its_probe_killed_and_replaced(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(supervise, "PROBE_S", 0.5)
    port = bound_port(0)
    assert port is not None
    probe = http_probe("127.0.0.1", port)

    def answers() -> bool:
        try:
            probe()
        except OSError:
            return False
        return True

    kept = start(SERVES, str(port), probe=probe)
    wait_until(answers)
    wait_until(lambda: kept.supervised._was_ever_well)
    frozen = kept.child()
    os.kill(frozen.pid, signal.SIGSTOP)
    assert "does not answer" in kept.events.get(timeout=10)
    assert "ended, killed by signal 9 (SIGKILL)" in kept.events.get(timeout=10)
    wait_until(answers)
    assert kept.child().pid != frozen.pid


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_frozen_process_whose_tether_was_killed_is_killed_too(start: Starter, monkeypatch: pytest.MonkeyPatch, is_closed: bool) -> None:
    """It cannot hear that its tether is gone, and keeps its output open."""
    monkeypatch.setattr(supervise, "PROBE_EVERY_S", 0.05)
    start.grace_s = 0.2
    kept = start(LIVES)
    kept.first_line()
    orphan = kept.child()
    wait_until(lambda: kept.supervised._current._child)
    orphan.suspend()
    kept.supervised.process.kill()
    if is_closed:
        began_s = time.monotonic()
        kept.supervised.close()
        assert time.monotonic() - began_s < supervise.KILL_S
    else:
        kept.wait_again(1)
    psutil.wait_procs([orphan], timeout=10)
    assert has_ended(orphan)


def test_a_process_that_is_killed_before_it_is_there_ends_all_the_same(tmp_path: Path) -> None:
    with Tethered(Part("thing", lambda: ["-c", LIVES], os.environ, tmp_path / "thing.log", grace_s=1.0)) as tethered:
        tethered.kill()
        wait_until(lambda: tethered.wait_over(0.1))


def test_a_process_that_never_listened_where_it_is_asked_is_left_alone(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask takes another port for its dashboard where it finds its own taken."""
    monkeypatch.setattr(supervise, "PROBE_EVERY_S", 0.01)
    monkeypatch.setattr(supervise, "START_S", 0.0)
    asked: list[None] = []

    def silent() -> None:
        asked.append(None)
        raise TimeoutError

    kept = start(LIVES, probe=silent)
    before = kept.child()
    wait_until(lambda: len(asked) > 10 * supervise.MAX_STRIKES)
    assert kept.child().pid == before.pid
    assert kept.events.empty()


def test_a_process_is_not_killed_for_another_that_answers_or_refuses_in_its_place(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program took its port while it was away, and it another."""
    monkeypatch.setattr(supervise, "PROBE_EVERY_S", 0.01)
    answers: list[OSError] = [OSError("answers 404"), ConnectionRefusedError()] * 2 * supervise.MAX_STRIKES
    was_well = threading.Event()

    def probe() -> None:
        if was_well.is_set() and answers:
            raise answers.pop()
        was_well.set()

    kept = start(LIVES, probe=probe)
    wait_until(lambda: not answers)
    assert kept.events.empty()


def test_it_is_ended_at_once_also_while_it_waits_for_its_next_start(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 600.0)
    kept = start(FAILS, "1")
    kept.events.get(timeout=10)
    began_s = time.monotonic()
    kept.supervised.close()
    assert time.monotonic() - began_s < 5
    assert kept.again == []


def test_it_waits_for_what_it_needs_before_it_is_started_again(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    asked: list[None] = []
    needed = port_probe("127.0.0.1", port)

    def needs() -> None:
        asked.append(None)
        needed()

    kept = start(LIVES, needs=needs)  # its first start is its owner's decision
    kept.first_line()
    kept.child().kill()
    wait_until(lambda: len(asked) > 2)
    assert kept.again == []
    with socket.create_server(("127.0.0.1", port)):
        kept.wait_again(1)


def test_only_a_process_of_before_a_time_is_killed_for_its_age(start: Starter) -> None:
    kept = start(LIVES)
    kept.first_line()
    first = kept.child()
    kept.supervised.kill_older(kept.supervised._started_s)
    assert first.is_running()
    kept.supervised.kill_older(time.monotonic())
    wait_until(lambda: len(kept.again) == 1)
    assert kept.child().pid != first.pid


def test_a_web_server_that_answers_something_else_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        probe = http_probe("127.0.0.1", listening.getsockname()[1])
        client = queue.SimpleQueue[str]()

        def ask() -> None:
            try:
                probe()
            except OSError as exc:
                client.put(str(exc))

        for answer, words in ((b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", "answers 503"), (b"SSH-2.0-x\r\n", "SSH-2.0-x")):
            thread = threading.Thread(target=ask)
            thread.start()
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(1 << 16)
                accepted.sendall(answer)
            thread.join()
            assert words in client.get(timeout=10)
