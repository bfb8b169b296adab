"""Named places where a process of ours can be made to fail on purpose: the boundaries at which a crash could lose or double a row.

Nothing happens at them unless PROTHEON_FAILPOINTS is set when the process starts. Its value is a list of items, separated by ``;``:

- ``POINT=ACTION``: what happens when a process comes by the point. Actions: ``kill`` (SIGKILL to itself), ``stop`` (SIGSTOP to
  itself; it goes on when it is thawed), ``exit`` (at once, with code 1, no cleaning up), ``raise`` (an OSError, which any place can
  meet), ``sleep:SECONDS``, ``hang`` (for ever).
- ``POINT=ACTION*N``: at most N times, over all processes; needs ``dir``. ``POINT=ACTION@K``: from the K-th time on that a process
  comes by. Both together: ``POINT=ACTION*N@K``.
- ``dir=DIRECTORY``: where each firing leaves a mark, a file ``POINT.N`` with the pid. If the directory has a file ``rules``, of such
  items, one a line, they count instead of the variable's; it may be put there, changed and removed at any time.

For example ``PROTHEON_FAILPOINTS='commit.before=kill*1; copy.mid=raise*3; dir=/tmp/marks'``.
Little more than the standard library, so that the splitting process may have it. Where nothing is armed a call takes 0.1 µs
(measured), and there are three of them for each COPY of a batch.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, NoReturn

from protheon_dask.errors import ConfigError

logger = logging.getLogger(__name__)

VARIABLE: Final = "PROTHEON_FAILPOINTS"

POINTS: Final[Mapping[str, str]] = {
    # worker, in the order in which one attempt comes by
    "claim.before": "worker: nothing is claimed yet",
    "claim.after": "worker: the attempt is open, and nothing was done for it",
    "fetch.before": "worker: before the first byte of the chunk was asked for",
    "fetch.after": "worker: the chunk's bytes are here, whole and checked",
    "begin.before": "worker: before the data transaction",
    "begin.after": "worker: the data transaction has the task's advisory lock and has seen the fence",
    "copy.before": "worker: before each COPY, the first one too",
    "copy.mid": "worker: in the middle of each COPY: its rows are sent, its end is not",
    "copy.after": "worker: after each COPY",
    "merge.before": "worker: before a shared table is merged",
    "merge.after": "worker: after a shared table was merged",
    "complete.before": "worker: all rows are written, the attempt is not ended",
    "complete.after": "worker: the attempt is ended, in the transaction that is still open",
    "commit.before": "worker: before COMMIT is sent",
    "commit.after": "worker: COMMIT was answered",
    # splitter
    "split.mid": "splitter: a part of a chunk is written to its temporary file",
    "rename.before": "splitter: the chunk's file is whole, under its temporary name",
    "rename.after": "splitter: the chunk's file has its name, and nobody knows",
    # coordinator
    "manifest.before": "coordinator: a splitter has told of a chunk, and the ledger does not know it",
    "manifest.after": "coordinator: the chunk's manifest and task are committed",
    "dispatch.before": "coordinator: tasks are chosen, Dask does not have them",
    "dispatch.after": "coordinator: Dask has the tasks, the coordinator has not noted it",
    "expire.before": "coordinator: attempts are locked to be taken back, in an open transaction",
    "expire.after": "coordinator: attempts were taken back and that is committed; their backends still live",
}
"""Each point, and where a process that fails there stands. A test kills and raises at each (tests/acceptance/test_failpoints.py)."""

EXIT_CODE: Final = 1
"""Of the action exit."""
RULES_FILE: Final = "rules"
SETTLE_S: Final = 0.05
"""How long a thread that stopped its own process lets the signal take effect, before it would go on."""

_ACTIONS: Final = ("kill", "stop", "exit", "raise", "sleep", "hang")
_RULE: Final = re.compile(r"([a-z.]+)=([a-z]+)(?::([0-9.]+))?(?:\*([0-9]+))?(?:@([0-9]+))?")


class Injected(OSError):
    """What the action raise raises: an error that nobody expects there."""

    def __init__(self, point: str) -> None:
        super().__init__(errno.EIO, f"failpoint {point}")


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens at a point."""

    action: str
    seconds: float = 0.0  # of sleep
    at_most: int | None = None  # times, over all processes
    first_hit: int = 1  # of a process, from which on it happens


class Failpoints:
    """The rules of a process. Thread-safe."""

    def __init__(self, rules: Mapping[str, Rule], directory: Path | None) -> None:
        self._rules, self._directory = rules, directory
        self._seen: tuple[int, int] | None = None  # the rules file when it was read: its change and inode
        self._from_file: Mapping[str, Rule] = {}
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()

    def come_by(self, point: str) -> None:
        """Do what the rules say of the point. Raises KeyError: there is no such point; Injected; ConfigError: a bad rules file."""
        if point not in POINTS:
            raise KeyError(point)
        with self._lock:
            rule = self._current().get(point)
            if rule is None:
                return
            self._hits[point] += 1
            if self._hits[point] < rule.first_hit or not self._mark(point, rule.at_most):
                return
        logger.warning("failpoint.fired", extra={"point": point, "action": rule.action})
        _act(point, rule)

    def _current(self) -> Mapping[str, Rule]:
        """The file's rules where there is a file, else the variable's. Hits of a process count from when its rules changed."""
        if self._directory is None:
            return self._rules
        path = self._directory / RULES_FILE
        try:
            found = path.stat()
        except FileNotFoundError:
            self._seen = None
            return self._rules
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            self._from_file, _ = parse(path.read_text().replace("\n", ";"), self._directory)
            self._seen = seen
            self._hits.clear()
        return self._from_file

    def _mark(self, point: str, at_most: int | None) -> bool:
        """Leave the next mark; False: it has fired as often as it may."""
        if self._directory is None:
            return True
        for n in count(1):
            if at_most is not None and n > at_most:
                return False
            with contextlib.suppress(FileExistsError):
                handle = os.open(self._directory / f"{point}.{n}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                os.write(handle, str(os.getpid()).encode())
                os.close(handle)
                return True
        raise AssertionError("count() does not end")


def parse(text: str, directory: Path | None = None) -> tuple[dict[str, Rule], Path | None]:
    """Read rules and their directory. Raises ConfigError, with every problem and the list of points.

    directory: of a rules file, which cannot name another.
    """
    rules: dict[str, Rule] = {}
    problems: list[str] = []
    is_file = directory is not None
    for item in filter(None, map(str.strip, text.split(";"))):
        if item.startswith("dir=") and not is_file:
            directory = Path(item.removeprefix("dir="))
            if not directory.is_dir():
                problems.append(f"{directory} is no directory")
        elif (problem := _read_rule(item, rules)) is not None:
            problems.append(problem)
    if directory is None and any(rule.at_most is not None for rule in rules.values()):
        problems.append("*N counts over all processes, by files: name a directory for them with dir=DIRECTORY")
    if problems:
        raise ConfigError(f"{VARIABLE}: {'; '.join(problems)}; points: {', '.join(POINTS)}; actions: {', '.join(_ACTIONS)}")
    return rules, directory


def _read_rule(item: str, rules: dict[str, Rule]) -> str | None:
    """Add one rule; a text: what is wrong with it."""
    match = _RULE.fullmatch(item)
    if match is None:
        return f"{item!r} is not POINT=ACTION, ACTION:SECONDS, ACTION*N or ACTION@K"
    point, action, seconds, at_most, first_hit = match.groups()
    if point not in POINTS:
        return f"there is no point {point!r}"
    if action not in _ACTIONS:
        return f"there is no action {action!r}"
    if (action == "sleep") != (seconds is not None):
        return f"{item!r}: sleep takes seconds, as sleep:2.5, and no other action does"
    if action in ("kill", "stop") and sys.platform == "win32":
        return f"{item!r}: this system has no SIGKILL and no SIGSTOP: use exit or hang"
    try:
        delay_s = float(seconds or 0)
    except ValueError:
        return f"{item!r}: {seconds!r} is not a number of seconds"
    rules[point] = Rule(action, delay_s, None if at_most is None else int(at_most), int(first_hit or 1))
    return None


def _act(point: str, rule: Rule) -> None:
    match rule.action:
        case "raise":
            raise Injected(point)
        case "sleep":
            time.sleep(rule.seconds)
        case "exit":
            os._exit(EXIT_CODE)
        case "stop" if sys.platform != "win32":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(SETTLE_S)
        case "kill" if sys.platform != "win32":
            os.kill(os.getpid(), signal.SIGKILL)
            _hang()
        case _:
            _hang()


def _hang() -> NoReturn:
    while True:
        time.sleep(3_600)


_armed: Failpoints | None = None


def arm_from_environment() -> None:
    """Arm this process by PROTHEON_FAILPOINTS, or not at all where it is not set. For the main function of a process of ours.

    Raises: ConfigError: an unknown point or action; the message has the list.
    """
    global _armed
    text = os.environ.get(VARIABLE, "")
    _armed = Failpoints(*parse(text)) if text.strip() else None


def hit(point: str) -> None:
    """Come by a point. Costs a look at one name where nothing is armed: not for each line, but for each batch."""
    if _armed is not None:
        _armed.come_by(point)
