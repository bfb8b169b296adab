"""What the master says of this host while it works: how many of its workers are there. On a thread of its own, which renews, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Self

from protheon_dask.broker.client import BrokerClient
from protheon_dask.errors import NotAllowed, ProtheonError
from protheon_dask.run.reaching import Reach
from protheon_dask.run.trust.membership import identity_of, renew_if_due
from protheon_dask.run.trust.removed import note_removed
from protheon_dask.words import counted, duration

ASK_S, ASK_FIRST_S = 5.0, 0.5
"""Period of asking, and while workers are awaited."""
RENEW_AGAIN_S = 300.0
"""Pause after a renewal, and after one that failed: 16 hours are left then. By a clock that is hours ahead of the master's each new
certificate is due at once, and each one opens connections anew."""
ABSENT_S: Final = 60.0
"""The master answers and knows none of this host's workers any more for so long, though they run: a nanny is frozen, or Dask is stuck.
More than a scheduler takes to drop a silent worker (worker-ttl)."""
START_S: Final = 300.0
"""The same of workers that it has never known, and of those that are missing beside others: a slow machine that was told to begin
again would never end beginning."""


class Attendance:
    """A context manager; asks until it is left. Fields are of the last answer.

    say: what a person should know, from this thread.
    """

    def __init__(self, broker: BrokerClient, at: Reach, say: Callable[[str], object]) -> None:
        self._broker, self._at, self._say = broker, at, say
        self._closing = threading.Event()
        self._told = self._told_note = ""  # what was said last of the certificate, and of the note of removed hosts
        self._renew_after = 0.0  # monotonic
        self.start = ""  # name of the workers that were started last: others of this host are of before, and dead
        self.n_workers, self.heard_at = 0, 0.0  # heard_at: monotonic seconds of the answer; 0: none yet
        self.trouble, self.trouble_at = "", 0.0  # why the master does not answer, and since when (monotonic); empty: it does
        self.refused: NotAllowed | None = None
        self.is_awaited = True  # somebody waits for the workers: ask more often
        self._thread = threading.Thread(target=self._keep, name="attendance", daemon=True)

    def _keep(self) -> None:
        while not self._closing.wait(ASK_FIRST_S if self.is_awaited else ASK_S):
            try:
                self._ask()
                self._renew()
            except NotAllowed as exc:
                self.refused = exc
            except ProtheonError as exc:
                if not self._closing.is_set() and not self.trouble:
                    self.trouble, self.trouble_at = str(exc), time.monotonic()

    def _ask(self) -> None:
        hosts = self._broker.hosts().hosts
        own = [worker for host in hosts if host.name == self._at.host for worker in host.workers]
        self.n_workers, self.heard_at, self.trouble = sum(is_of_start(worker, self.start) for worker in own), time.monotonic(), ""
        self._note({host.name: host.join_no + host.is_removed for host in hosts if host.is_removed or host.join_no > 1})

    def _note(self, removed: Mapping[str, int]) -> None:
        """Have this host's workers close their doors to them. What stands in the way is told once, and tried again."""
        if self._at.tls is None:
            return
        told = ""
        try:
            note_removed(self._at.tls, removed)
        except OSError as exc:  # a disk that is full, or a file that is another user's
            told = f"this host's workers cannot be told whom the master has removed, and may let them in; it is tried again: {exc}"
        if told and told != self._told_note:
            self._say(told)
        self._told_note = told

    def _renew(self) -> None:
        """What stands in the way is told once, and tried again: a person may mend it while the host works."""
        if self._at.tls is None or time.monotonic() < self._renew_after:
            return
        told = ""
        try:
            if renew_if_due(self._at.tls, self._broker):
                self._renew_after = time.monotonic() + RENEW_AGAIN_S
                told = f"the certificate was renewed, until {identity_of(self._at.tls).until_at.astimezone():%Y-%m-%d %H:%M}"
        except NotAllowed:
            raise
        except (ProtheonError, OSError) as exc:
            self._renew_after = time.monotonic() + RENEW_AGAIN_S
            told = f"the certificate cannot be renewed, and is tried again: {exc}"
        if told and told != self._told:
            self._say(told)
        self._told = told

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()


class Headcount:
    """Are the workers of one start with the master, look after look? Says when to begin anew. now_s: the caller's clock, monotonic.

    Workers that die and come back change the number, and are waited for: to begin anew interrupts all others.
    """

    def __init__(self, n_wanted: int, now_s: float) -> None:
        self._n_wanted, self._n, self._since_s, self._patience_s = n_wanted, 0, now_s, START_S

    def trouble(self, n: int | None, now_s: float) -> str:
        """Say who has been missing for too long; empty: nobody. n: workers that the master knows now; None: it does not answer."""
        if n is None:
            self._since_s = now_s
        elif n != self._n:
            self._n, self._since_s, self._patience_s = n, now_s, START_S if n else ABSENT_S
        missing_s = now_s - self._since_s
        if self._n >= self._n_wanted or missing_s <= self._patience_s:
            return ""
        if not self._n:
            return f"the master has known no worker of this host for {duration(missing_s)}, though they run"
        return f"the master has known only {self._n} of this host's {counted(self._n_wanted, 'worker')} for {duration(missing_s)}"


def is_of_start(worker: str, start: str) -> bool:
    """Is this worker one of a ``dask worker --name START``, which numbers them where there are several?"""
    return worker == start or worker.startswith(f"{start}-")
