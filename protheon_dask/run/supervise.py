"""Child processes that are started again when they end: what dies comes back, and what cannot start says why."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import psutil

from protheon_dask.errors import BrokerUnavailable, ConfigError, InvariantError, ProtheonError, TransientError
from protheon_dask.run.exits import TRY_LATER, USAGE

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
"""Pause before a process is started again: doubled with each end."""
HEALTHY_S = 60.0
"""A process that lived so long has its ends before that forgotten."""
QUICK_S = 10.0
"""An end within this time may be a failure to start. Not longer: `dask worker` gives up on a scheduler that is away after 10 s."""
NEEDS_POLL_S = 0.2
"""Period of the look whether what a process needs is back."""
MAX_QUICK_ENDS = 5
"""So many failures to start in a row are an error. A usage error before the first line is one however long it took: a broker that finds
another in the lead, or PostgreSQL away, waits before it says so."""
PROBE_EVERY_S, PROBE_S, MAX_STRIKES = 1.0, 2.0, 3
"""A process that was well is frozen when it has said nothing so often, each time for PROBE_S, with no good answer between. A refusal or
a strange answer is none of a frozen process: another program may have the port by now, and a new process of ours another port."""
START_S = 60.0
"""How long a process may take to answer its first probe on a busy machine; then strikes are counted, if one before it ever answered:
else nobody listens there, as where Dask's dashboard found its port taken and took another."""
KILL_S = 5.0
"""How long the end of a process that was killed is waited for."""
KILLED = frozenset(128 + number for number in (1, 2, 9, 15))
"""Codes of processes that somebody ended (SIGHUP, SIGINT, SIGKILL, SIGTERM): they could start."""


def how_it_ended(code: int | None) -> str:
    """An exit code, as a shell has it, in words."""
    if code == 0:
        return "ended without an error"
    with suppress(ValueError):
        if code is not None and code > 128:
            return f"ended, killed by signal {code - 128} ({signal.Signals(code - 128).name})"
    return f"ended with code {code}"


@dataclass(frozen=True, slots=True)
class Part:
    """How to start a Python child, and how to see that it is well."""

    name: str
    arguments: Sequence[str] | Callable[[], Sequence[str]]  # a function is asked at each start
    env: Mapping[str, str] = field(repr=False)  # it names the database, with its password
    log: Path
    grace_s: float  # between a polite end and a kill
    more_again: Sequence[str] = ()  # arguments of every start but the first
    probe: Callable[[], object] | None = None  # raises TimeoutError where the process says nothing, another OSError where it is not it
    needs: Callable[[], object] | None = None  # raises OSError while what it needs is away: it is started again only when that is there


class Tethered:
    """A Python child behind run.tether: it ends with this process, and its output goes to a log."""

    def __init__(self, part: Part, *, again: bool = False) -> None:
        self.part = part
        given = part.arguments() if callable(part.arguments) else part.arguments
        # unbuffered: a line held back would come after what the child wrote itself, its reason
        self._file: IO[bytes] = part.log.open("ab" if again else "wb", buffering=0)
        arguments = [*given, *(part.more_again if again else ())]
        command = [sys.executable, "-m", "protheon_dask.run.tether", "--grace", f"{part.grace_s:g}", "--", sys.executable, *arguments]
        # a group of its own: Ctrl-C in a terminal reaches this process alone, which ends its children in order
        self.process = subprocess.Popen(
            command, env=dict(part.env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._file, start_new_session=True
        )
        self._orphaned_s = float("inf")  # monotonic; since when its tether was seen to be gone, and it not
        self._child: psutil.Process | None = None  # with its start time: its number may be another's by the time it is killed
        self._lines: list[bytes] = []
        self._first, self._ended = threading.Event(), threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"log-{part.name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None, "Popen was given a pipe"
        with self.process.stdout as output:
            for line in output:
                self._file.write(line)
                if not self._first.is_set():
                    self._lines.append(line)
                    self._first.set()
        self.process.wait()
        self._ended.set()
        self._first.set()

    def end(self) -> None:
        """Let its tether end it; returns at once."""
        assert self.process.stdin is not None, "Popen was given a pipe"
        self.process.stdin.close()

    def note_child(self) -> bool:
        """Remember which process the child is while its tether lives, the only one to tell; False: the tether has ended."""
        if self.code is not None:
            return False
        if self._child is None:
            with suppress(psutil.Error):
                self._child = next(iter(psutil.Process(self.process.pid).children()), None)
        return True

    def kill(self) -> None:
        """End the child at once, which may be frozen: its tether kills the rest of its group and ends. Without a tether, the group.

        A tether that has no child yet, or none any more, ends by itself.
        """
        is_tethered = self.note_child()
        if self._child is None or not self._child.is_running():
            self.end()
            return
        with suppress(psutil.Error, OSError):
            if is_tethered or sys.platform == "win32":
                self._child.kill()
            else:
                os.killpg(self._child.pid, signal.SIGKILL)

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False if that took longer."""
        return self._ended.wait(timeout_s)

    def wait_over(self, timeout_s: float) -> bool:
        """As wait_ended, for who asks again and again: a child whose tether somebody killed has heard of it, unless it is frozen.

        It is killed when the grace is over, and given up KILL_S after that: True then, too.
        """
        if self.wait_ended(timeout_s):
            return True
        if self.note_child():
            return False
        self._orphaned_s = min(self._orphaned_s, time.monotonic())
        orphaned_for_s = time.monotonic() - self._orphaned_s
        if orphaned_for_s > self.part.grace_s:
            self.kill()
        return orphaned_for_s > self.part.grace_s + KILL_S

    @property
    def has_spoken(self) -> bool:
        """It printed a line: it is ready, where it prints one then."""
        return bool(self._lines)

    def first_line(self, timeout_s: float) -> str:
        """The first line that it printed. Raises what check() raises, or TransientError after timeout_s."""
        if not self._first.wait(timeout_s):
            raise TransientError(f"the {self.part.name} did not start within {timeout_s:g} s: see {self.part.log}")
        if not self._lines:
            self.check()
            raise InvariantError(f"the {self.part.name} ended without a word: see {self.part.log}")
        return self._lines[0].decode()

    @property
    def code(self) -> int | None:
        """Its exit code, as a shell has it; None: it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def ending(self) -> str:
        """How it ended, with its last words; those before an end as it should be, or before a kill from outside, explain nothing."""
        code = self.code
        last = self.part.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        said = "" if code == 0 or code in KILLED else f": {last[0]}"
        return f"the {self.part.name} {how_it_ended(code)}{said} (see {self.part.log})"

    def check(self) -> None:
        """Raise if it has ended."""
        if self.code is not None:
            raise ConfigError(self.ending()) if self.code == USAGE else BrokerUnavailable(self.ending())

    def close(self) -> None:
        """End it, and wait for that; where its tether was killed, not for ever."""
        self.note_child()
        self.end()
        self.process.wait()
        self._reader.join(self.part.grace_s)
        if self._reader.is_alive():  # an orphan keeps its output open
            self.kill()
            self._reader.join(KILL_S)
        if not self._reader.is_alive():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Supervised:
    """A part that runs until close(). A context manager; its supervisor is a thread.

    Until keep() is called an end is final, as it is for a start that failed. After that it is started again whenever it ends: after
    FIRST_PAUSE_S, then longer. Where it cannot start at all, MAX_QUICK_ENDS times in a row, that is an error for good.

    on_event: what happened, in words. on_end: called once, when it has ended for good. on_again: called after each further start with
    the time (monotonic) at which the process before it ended. All three are called on the supervisor's thread.
    """

    def __init__(
        self,
        part: Part,
        *,
        on_event: Callable[[str], object] = lambda _: None,
        on_end: Callable[[Supervised], object] = lambda _: None,
        on_again: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.part = part
        self._on_event, self._on_end, self._on_again = on_event, on_end, on_again
        self._closing, self._kept = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # of _current: none is started after close()
        self._error: ProtheonError | None = None
        self._current, self._started_s = Tethered(part), time.monotonic()
        self._was_ever_well = False
        self._thread = threading.Thread(target=self._supervise, name=f"supervise-{part.name}", daemon=True)
        self._thread.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The tether of the process that runs now, or ran last."""
        return self._current.process

    def first_line(self, timeout_s: float) -> str:
        """The first line that the process printed. Raises what check() raises, or TransientError after timeout_s."""
        return self._current.first_line(timeout_s)

    def keep(self) -> None:
        """From now on start it again when it ends."""
        self._kept.set()

    def check(self) -> None:
        """Raise if it has ended for good: ConfigError or BrokerUnavailable, with its last words and where its log is."""
        if not self._kept.is_set():
            self._current.check()
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Start it no more when it ends."""
        self._closing.set()

    def end(self) -> None:
        """Let it end, for good; returns at once."""
        self.leave()
        with self._lock:
            self._current.end()

    def kill_older(self, than_s: float) -> None:
        """Kill the process if it is one that was started before this time (monotonic), whatever it does; another is started."""
        with self._lock:
            if self._started_s < than_s and not self._closing.is_set():
                self._current.kill()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait for the end of the process that runs now, by itself, after leave(); False if that took longer."""
        return self._current.wait_ended(timeout_s)

    def close(self) -> None:
        """End it, and wait for that. Idempotent."""
        self.end()
        self._thread.join()
        self._current.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the supervisor's thread ----------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        pause_s, quick_ends = FIRST_PAUSE_S, 0
        while True:
            was_ready = self._wait_end()
            if self._closing.is_set():
                return
            ended_s = time.monotonic()
            lived_s, code = ended_s - self._started_s, self._current.code
            is_failure = not was_ready and (lived_s < QUICK_S or code == USAGE) and code not in (0, TRY_LATER) and code not in KILLED
            quick_ends = quick_ends + 1 if is_failure else 0
            if not self._kept.is_set() or quick_ends >= MAX_QUICK_ENDS:
                self._end_for_good(quick_ends)
                return
            if lived_s >= HEALTHY_S:
                pause_s = FIRST_PAUSE_S
            self._on_event(f"{self._current.ending()}: it is started again")
            if not self._start_again(pause_s):
                return
            self._on_again(ended_s)
            pause_s = min(MAX_PAUSE_S, 2.0 * pause_s)

    def _end_for_good(self, n_tries: int) -> None:
        try:
            self._current.check()
        except ProtheonError as exc:
            self._error = exc if n_tries < MAX_QUICK_ENDS else type(exc)(f"{exc}; it was started {n_tries} times in vain")
        self._on_end(self)

    def _start_again(self, pause_s: float) -> bool:
        """Start it after the pause, when what it needs is there, and as soon as the system lets us; False: it is to end."""
        while not self._closing.wait(pause_s) and self._wait_needs():
            with self._lock:
                if self._closing.is_set():
                    break
                try:
                    again = Tethered(self.part, again=True)
                except OSError as exc:  # no memory, no process, no file descriptor for now
                    self._on_event(f"the {self.part.name} cannot be started: {exc}")
                    pause_s = min(MAX_PAUSE_S, 2.0 * pause_s)
                    continue
                self._current.close()
                self._current, self._started_s = again, time.monotonic()
            return True
        return False

    def _wait_needs(self) -> bool:
        """Wait for what it needs; False: it is to end."""
        while self.part.needs is not None and not self._closing.is_set():
            try:
                self.part.needs()
                break
            except OSError:
                self._closing.wait(NEEDS_POLL_S)
        return not self._closing.is_set()

    def _wait_end(self) -> bool:
        """Wait until the process has ended, and kill it if it is frozen; True: it was ready before that."""
        tethered, probe = self._current, self.part.probe
        is_well, strikes = False, 0
        while not tethered.wait_over(PROBE_EVERY_S):
            if probe is None or tethered.code is not None:
                continue
            try:
                probe()
                is_well = self._was_ever_well = True
                strikes = 0
            except TimeoutError as exc:
                if is_well or (self._was_ever_well and time.monotonic() - self._started_s > START_S):
                    strikes += 1
                if strikes >= MAX_STRIKES and not self._closing.is_set():
                    self._on_event(f"the {self.part.name} does not answer ({exc}): it is killed")
                    tethered.kill()
                    strikes = 0
            except OSError:
                pass
        return is_well or tethered.has_spoken


def port_probe(host: str, port: int) -> Callable[[], None]:
    """A probe that asks whether somebody listens: Raises OSError if not, within PROBE_S. A frozen process listens, too."""

    def probe() -> None:
        socket.create_connection((host, port), timeout=PROBE_S).close()

    return probe


def http_probe(host: str, port: int, path: str = "/health") -> Callable[[], None]:
    """A probe that asks a web server: Raises TimeoutError if it says nothing for PROBE_S, another OSError if it does not answer 200."""

    def probe() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_S)  # knows no proxy, which an opener of urllib's does
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except http.client.HTTPException as exc:
            raise OSError(f"http://{host}:{port}{path}: {exc or type(exc).__name__}") from exc
        finally:
            connection.close()
        if status != http.client.OK:
            raise OSError(f"http://{host}:{port}{path} answers {status}")

    return probe
