"""``protheon worker``: this host's workers, for as long as nobody ends them, through everything that happens to their master."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings, environment
from protheon_dask.errors import BrokerUnavailable, ConfigError, LedgerUnavailable, NotAllowed, ProtheonError, TransientError
from protheon_dask.run import settings as rim
from protheon_dask.run.addresses import IS_IT_THERE
from protheon_dask.run.attendance import Attendance, Headcount
from protheon_dask.run.enrolling import Enrolled, enrol
from protheon_dask.run.parts import DASK_CONFIG, WORKER_MALLOC, dask_worker
from protheon_dask.run.reaching import Reach, check_database, check_scheduler, key_file, listening_address
from protheon_dask.run.sizing import Sizing
from protheon_dask.run.supervise import Part, Tethered
from protheon_dask.run.trust.identity import HOST_VARIABLE, dask_environment
from protheon_dask.run.trust.membership import identity_of
from protheon_dask.run.trust.owner_files import make_directory, replace_file
from protheon_dask.run.trust.returning import come_back
from protheon_dask.words import counted, duration, since

POLL_S: Final = 0.2
"""Period of the look whether the workers live, and whether this host is to end."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
"""Pause between tries to join: doubled each time."""
HEALTHY_S: Final = 60.0
"""Workers that were there for so long have the pauses before that forgotten."""
MAX_FAILED_STARTS: Final = 5
"""Workers of a host of which none ever joined, and which ended so often within HEALTHY_S, cannot start here at all. Those that
live and do not reach the master may do so once something elsewhere is mended: they are tried again for ever."""
AWAY_S: Final = 10.0
"""A master that does not answer for so long is told of; the workers go on."""
SLEPT_S: Final = 30.0
"""A look that comes so much too late: the machine slept, or this process was stopped. Below a lease nothing is lost by that."""
DRAIN_MORE_S: Final = 8.0
"""What workers may take to close, after the work in hand has ended or was given back."""


class Hosting:
    """Joins, works, and joins again. run() is called once, on the main thread; stop() from wherever, a signal's handler too.

    Guarantee: the processes end with this one, however it ends (run.tether). A worker that is drained runs nothing twice: what it has
               in hand ends, or is given back at no cost within exit_grace_s.
    """

    def __init__(self, settings: Settings, at: Reach, sizing: Sizing, *, into: str, say: Callable[[str], object]) -> None:
        self._settings, self._at, self._sizing, self._into, self._say = settings, at, sizing, into, say
        self._home = rim.home_of(settings)
        self._directory = self._home / "hosting"
        self._n_stops = 0
        self._was_joined = False  # the master has known a worker of ours
        self._has_said_joined = False  # it has known all of them, and that was said
        self._starts = 0
        self._lost_at: float | None = None  # monotonic; since when this host has no workers there

    def stop(self) -> None:
        """Drain; asked again: end at once."""
        self._n_stops += 1

    def run(self) -> None:
        """Work until stop() is called.

        Raises: ConfigError: this host cannot work for that master; once it has joined, only where it was removed: anything else is
                waited for. KeyboardInterrupt: it was ended at once.
        """
        with self._alone(), BrokerClient(self._at.master, self._at.tls) as broker, Attendance(broker, self._at, self._say) as attendance:
            pause_s, n_failed = FIRST_PAUSE_S, 0
            while (enrolled := self._enrolled(broker)) is not None:
                started_at = time.monotonic()
                attendance.is_awaited = True
                ending = self._work(enrolled, attendance)
                if self._n_stops > 1:
                    raise KeyboardInterrupt
                if self._n_stops:
                    self._say("drained: nothing of this host is left at the master")
                    return
                lived_s = time.monotonic() - started_at
                n_failed = n_failed + 1 if not self._was_joined and lived_s < HEALTHY_S else 0
                if n_failed >= MAX_FAILED_STARTS:
                    raise ConfigError(f"the workers cannot start on this host, {n_failed} times in a row: {ending}")
                pause_s = FIRST_PAUSE_S if lived_s >= HEALTHY_S else min(MAX_PAUSE_S, 2.0 * pause_s)
                if self._has_said_joined and self._lost_at is None:
                    self._lost_at = time.monotonic()
                self._say(f"lost: {ending}; joining again")
                self._wait(pause_s)
            self._say("ended while it waited: no worker of this host runs")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one of this home: two would write one log, and drain together."""
        make_directory(self._directory)
        lock = FileLock(self._directory / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise ConfigError(
                f"another `protheon worker` runs from {self._home}: end it first, or give this one a home of its own (PROTHEON_HOME)"
            ) from exc
        try:
            yield
        finally:
            lock.release()

    # --- joining --------------------------------------------------------------------------------------------------------

    def _enrolled(self, broker: BrokerClient) -> Enrolled | None:
        """What the master says, as soon as it, its scheduler and the database answer; None: this host is to end."""
        since_at, told, pause_s = datetime.now(UTC), "", FIRST_PAUSE_S
        while not self._n_stops:
            try:
                self._come_back()
                enrolled = enrol(self._settings, broker, self._at.host, self._into)
                check_database(enrolled, broker, self._at)
                check_scheduler(enrolled.scheduler_address)
            except NotAllowed:
                raise
            except ProtheonError as exc:
                if not isinstance(exc, TransientError) and not self._was_joined:
                    raise
                if type(exc).__name__ != told:  # the text of an outage may be another one each time
                    told = type(exc).__name__
                    self._say(since(since_at, self._waiting(exc)))
                self._wait(pause_s)
                pause_s = min(MAX_PAUSE_S, 2.0 * pause_s)
                continue
            for item in enrolled.warnings:
                self._say(f"{item}: install the same, if results look strange")
            return enrolled
        return None

    def _waiting(self, exc: ProtheonError) -> str:
        if isinstance(exc, LedgerUnavailable):
            return f"waiting for PostgreSQL: {exc}"
        is_new = isinstance(exc, BrokerUnavailable) and not self._was_joined
        return f"waiting for the master: {exc}{f'. {IS_IT_THERE}' if is_new else ''}"

    def _come_back(self) -> None:
        """See that there is a certificate to show, after a time away that was longer than one lives, too. Raises what come_back() does."""
        tls = self._at.tls
        if tls is not None and come_back(tls):
            until = f"{identity_of(tls).until_at.astimezone():%Y-%m-%d %H:%M}"
            self._say(f"this host was away until its certificate had ended: the master gave it a new one, until {until}")

    def _part(self, enrolled: Enrolled, name: str) -> Part:
        """``dask worker`` for this host. name: that no process before it had."""
        settings = replace(enrolled.settings, tls_dir=str(self._at.tls.directory) if self._at.tls is not None else "")
        env = {
            **WORKER_MALLOC,
            **rim.environment(),
            **DASK_CONFIG,
            **dask_environment(self._at.tls),
            **environment(settings),
            "PROTHEON_BROKER": self._at.master,
            HOST_VARIABLE: self._at.host,
            "PROTHEON_DRAIN_FILE": str(self._drain_file),
        }
        if enrolled.key is not None:
            path = key_file(self._directory)
            replace_file(path, enrolled.key.hex().encode())
            env["PROTHEON_KEY_FILE"] = str(path)
        local_directory = self._directory / "dask"
        make_directory(local_directory)
        log = self._home / "logs" / "hosting.log"
        make_directory(log.parent)
        address, sizing = enrolled.scheduler_address, self._sizing
        arguments = dask_worker(
            address,
            sizing.n_workers,
            name=name,
            host=listening_address(enrolled, self._at),
            local_directory=local_directory,
            is_tls=self._at.tls is not None,
        )
        arguments += ["--memory-limit", str(sizing.memory_limit_bytes)]
        return Part("workers", arguments, env, log, settings.exit_grace_s + DRAIN_MORE_S)

    @property
    def _drain_file(self) -> Path:
        return self._directory / "drain"

    # --- working --------------------------------------------------------------------------------------------------------

    def _work(self, enrolled: Enrolled, attendance: Attendance) -> str:
        """Start the workers, and stay with them until they have ended, or are to; say how that was."""
        self._drain_file.unlink(missing_ok=True)
        attendance.start = f"{self._at.host}-{secrets.token_hex(3)}"
        try:
            workers = Tethered(self._part(enrolled, attendance.start), again=self._starts > 0)
        except (OSError, BrokerUnavailable) as exc:  # no memory, no process, no way there for now
            return f"the workers could not be started: {exc}"
        self._starts += 1
        with workers:
            return self._stay(workers, enrolled, attendance)

    def _stay(self, workers: Tethered, enrolled: Enrolled, attendance: Attendance) -> str:
        started_at = time.monotonic()
        looked, ending, drain_end_at, is_away = (time.time(), started_at), "", float("inf"), False
        headcount = Headcount(self._sizing.n_workers, started_at)
        while not workers.wait_over(POLL_S):
            now, before = time.monotonic(), looked
            looked = (time.time(), now)
            if self._n_stops > 1:
                workers.kill()
                continue
            if self._n_stops and drain_end_at == float("inf"):
                drain_end_at = now + enrolled.settings.exit_grace_s + DRAIN_MORE_S
                self._begin_drain(enrolled.settings.exit_grace_s)
            if now > drain_end_at:
                workers.end()
            if ending or self._n_stops:
                continue
            # the clock of a Linux machine that sleeps stands still, its calendar does not
            late_s = max(looked[0] - before[0], now - before[1]) - POLL_S
            if late_s > max(SLEPT_S, enrolled.settings.lease_s):
                ending = f"this machine slept for {duration(late_s)}"
            elif attendance.refused is not None:
                workers.end()
                raise attendance.refused
            else:
                n_heard = attendance.n_workers if attendance.heard_at > started_at else 0
                if n_heard:
                    self._note_joined(attendance)
                if missing := headcount.trouble(None if attendance.trouble else n_heard, now):
                    ending = f"{missing} (see {workers.part.log})"
            if ending:
                workers.end()
            is_away = self._note_away(attendance, is_away)
        return ending or workers.ending()

    def _begin_drain(self, grace_s: float) -> None:
        self._drain_file.touch()
        self._say(f"draining: no new work; what is in hand ends, or is given back after {grace_s:g} s. Once more (Ctrl-C) ends it at once")

    def _note_joined(self, attendance: Attendance) -> None:
        """Note that workers are there, and say once that all of them are."""
        self._was_joined = True
        if not attendance.is_awaited or attendance.n_workers < self._sizing.n_workers:
            return
        attendance.is_awaited = False
        workers = counted(self._sizing.n_workers, "worker")
        if self._lost_at is not None:
            self._say(f"back after {duration(time.monotonic() - self._lost_at)}, with {workers}")
        else:
            how = "over mutual TLS" if self._at.tls is not None else "in plaintext"
            self._say(f"joined the master at {self._at.master} as {self._at.host}, with {workers}, {how}")
        self._has_said_joined, self._lost_at = True, None

    def _note_away(self, attendance: Attendance, was_away: bool) -> bool:
        """Tell of a master that does not answer, and that it is back."""
        away_s = time.monotonic() - attendance.trouble_at if attendance.trouble else 0.0
        if away_s > AWAY_S and not was_away:
            self._say(f"the master has not answered for {duration(away_s)}, the workers go on: {attendance.trouble}")
            return True
        if was_away and not attendance.trouble:
            self._say("the master answers again")
            return False
        return was_away

    def _wait(self, seconds: float) -> None:
        """Sleep, unless this host is to end. An Event is none for a signal's handler: it may interrupt the one that holds its lock."""
        end_at = time.monotonic() + seconds
        while not self._n_stops and time.monotonic() < end_at:
            time.sleep(POLL_S)
