"""What a picture of the cluster knows of the ledger: sums that are kept between two looks, so that a look costs what is at work.

A ledger may hold a million tasks. What is finished never changes and is counted once; what is open is asked for again, within an
allowance of time: a look that would take long is taken seldom.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from protheon_dask.ledger import pictures
from protheon_dask.ledger.connect import Connection
from protheon_dask.ledger.hosts import hosts_aside
from protheon_dask.ledger.pictures import TaskSums
from protheon_dask.model import RunState
from protheon_dask.run.statistics import statistics_of
from protheon_dask.telemetry.board import SHARE
from protheon_dask.telemetry.picture import HostAside, Totals
from protheon_dask.telemetry.statistics import RunStatistics

SELDOM: Final = 0.001
"""Of what is asked again only because it might have changed without a sign: everything, and runs that have ended."""
SAVED_S: Final = 1.0
"""What is saved up of an allowance of time: so long may the answers to one look take, before the next ones come later."""
NEWEST, LIVE = 20, 50
"""Runs that a picture shows: the newest, and so many that are at work or paused."""
LIVE_S, PAUSED_S, ENDED_S = 1.0, 5.0, 60.0
"""How old the statistics of a run may be. Of an ended one little changes: others go on with its files, its rejects are replayed."""
IDLE_S: Final = 5.0
"""How old totals may become while no run is at work, the sums of tasks without a run while none of them is, and who is set aside."""
RECOUNT_S: Final = 900.0
"""Everything is counted anew that often at most: a load that was taken up again and finished between two looks is found then."""
MARGIN: Final = timedelta(seconds=10)
"""A load may be finished at a time before the look that does not see it yet: its transaction began then."""


class Allowance:
    """A share of the time, saved up to SAVED_S. Not thread-safe; the caller brings the clock."""

    def __init__(self, share: float, now_s: Callable[[], float]) -> None:
        self._share, self._now_s = share, now_s
        self._left_s, self._at_s = SAVED_S, now_s()

    @property
    def is_left(self) -> bool:
        now_s = self._now_s()
        self._left_s = min(SAVED_S, self._left_s + self._share * (now_s - self._at_s))
        self._at_s = now_s
        return self._left_s > 0

    def spend(self, began_s: float) -> None:
        """What began then ended now. It may overdraw."""
        self._left_s -= self._now_s() - began_s


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The ledger's part of a picture."""

    counted_at: float | None  # when the totals were counted, seconds of the epoch; None: the first look has only seen the runs
    totals: Totals
    runs: tuple[RunStatistics, ...]  # newest first
    oldest_ready_s: float | None
    look_ahead_chunks: int
    hosts_aside: tuple[HostAside, ...]


@dataclass(slots=True)
class _KnownRun:
    statistics: RunStatistics
    mark: str
    read_s: float
    took_s: float


@dataclass(slots=True)
class _Sums:
    """Tasks of all loads: of those that are finished as one sum, of the others one by one."""

    finished: TaskSums = field(default_factory=TaskSums)
    finished_ids: set[int] = field(default_factory=set)
    closed: dict[int, TaskSums] = field(default_factory=dict)  # not finished, and nobody's: a run may go on with them
    open: dict[int, TaskSums] = field(default_factory=dict)
    oldest_ready_s: float | None = None  # how long the oldest chunk waits that may be taken
    since: datetime | None = None  # when was looked last, by the database's clock
    recount_s: float = 0.0  # when everything is to be counted anew

    def take(self, loads: list[pictures.LoadSums]) -> None:
        self.open, self.oldest_ready_s = {}, longest(load.oldest_ready_s for load in loads)
        for load in loads:
            self.closed.pop(load.load_id, None)
            if load.is_finished:
                if load.load_id not in self.finished_ids:
                    self.finished_ids.add(load.load_id)
                    self.finished = self.finished.plus(load.tasks)
            elif load.is_open:
                self.open[load.load_id] = load.tasks
            else:
                self.closed[load.load_id] = load.tasks

    def total(self) -> TaskSums:
        total = self.finished
        for sums in (*self.closed.values(), *self.open.values()):
            total = total.plus(sums)
        return total


def longest(waits_s: Iterable[float | None]) -> float | None:
    """Of those that are known; None: none is."""
    return max((wait_s for wait_s in waits_s if wait_s is not None), default=None)


class LedgerLook:
    """Looks, and keeps what it saw. Single-threaded. now_s: a clock that only rises.

    Guarantee: once everything is counted it waits for the ledger for little more than 2 x SHARE of the time, whatever
               its size: what takes long is asked for seldom.
    """

    def __init__(self, now_s: Callable[[], float], now_at: Callable[[], float] = time.time) -> None:
        self._now_s, self._now_at = now_s, now_at
        self._for_totals, self._for_runs = Allowance(SHARE, now_s), Allowance(SHARE, now_s)
        self._sums = _Sums()
        self._general = TaskSums()
        self._general_due_s = self._aside_due_s = self._count_began_s = -math.inf
        self._has_general = False  # a task without a run is ready or running
        self._shown: list[pictures.ShownRun] = []
        self._aside: tuple[HostAside, ...] = ()
        self._totals = Totals()
        self._counted_at: float | None = None
        self._has_looked = False
        self._oldest_ready_s: float | None = None
        self._look_ahead = 0
        self._runs: dict[int, _KnownRun] = {}

    def look(self, conn: Connection) -> LedgerView:
        """See what is new. Raises psycopg's errors: what was known before stays known.

        The first look brings runs alone: to count everything takes some 10 s where there are a million tasks.
        """
        began_s = self._now_s()
        shown = pictures.shown_runs(conn, newest=NEWEST, live=LIVE)
        is_idle = not self._sums.open and not any(item.is_live for item in shown) and not self._has_general
        if not self._has_looked:
            self._has_looked = True
        elif self._sums.since is None or began_s >= self._sums.recount_s:
            self._count(conn, _Sums())
            self._sums.recount_s = began_s + max(RECOUNT_S, (self._now_s() - began_s) / SELDOM)
        elif self._for_totals.is_left and (not is_idle or shown != self._shown or began_s - self._count_began_s >= IDLE_S):
            try:
                self._count(conn, self._sums)
            finally:
                self._for_totals.spend(began_s)
        self._shown = shown
        runs = self._look_at_runs(conn, shown)
        if began_s >= self._aside_due_s:
            self._aside = tuple(HostAside(item.host, item.reason, item.until_at.timestamp()) for item in hosts_aside(conn))
            self._aside_due_s = began_s + IDLE_S
        return LedgerView(self._counted_at, self._totals, runs, self._oldest_ready_s, self._look_ahead, self._aside)

    def _count(self, conn: Connection, sums: _Sums) -> None:
        """Bring these sums up to date; those that are empty count everything."""
        self._count_began_s, now_at = self._now_s(), self._now_at()
        ledger = pictures.ledger_sums(conn)
        sums.take(pictures.load_sums(conn, list(sums.open), None if sums.since is None else sums.since - MARGIN))
        sums.since = ledger.at
        self._sums = sums
        began_s = self._now_s()
        had_general, self._has_general = self._has_general, ledger.general_ready + ledger.general_running > 0
        if began_s >= self._general_due_s or self._has_general != had_general:
            self._general = pictures.general_sums(conn)
            took_s = self._now_s() - began_s
            self._general_due_s = began_s + max(took_s / SHARE, LIVE_S if self._has_general else IDLE_S)
        self._counted_at, self._totals = now_at, _totals_of(sums.total().plus(self._general), ledger)
        self._oldest_ready_s = longest((sums.oldest_ready_s, ledger.oldest_ready_s))
        self._look_ahead = sum(load.ready for load in sums.open.values())

    def _look_at_runs(self, conn: Connection, shown: list[pictures.ShownRun]) -> tuple[RunStatistics, ...]:
        """The runs to be shown; those whose statistics are due are asked for as far as the allowance goes, runs at work first."""
        self._runs = {item.run_id: self._runs[item.run_id] for item in shown if item.run_id in self._runs}
        now_s = self._now_s()
        due = []
        for item in shown:
            known = self._runs.get(item.run_id)
            if known is None or now_s - known.read_s >= _fresh_s(known, item):
                due.append((not item.is_live, known.read_s if known else -math.inf, -item.run_id, item))
        for *_, item in sorted(due, key=lambda entry: entry[:3]):
            if not self._for_runs.is_left:
                break
            began_s = self._now_s()
            statistics = statistics_of(conn, item.run_id)
            self._for_runs.spend(began_s)
            self._runs[item.run_id] = _KnownRun(statistics, item.mark, began_s, self._now_s() - began_s)
        return tuple(self._runs[item.run_id].statistics for item in shown if item.run_id in self._runs)


def _fresh_s(known: _KnownRun, shown: pictures.ShownRun) -> float:
    """How old what is known of a run may become."""
    if shown.mark != known.mark or (shown.is_live and known.statistics.state in (RunState.RUNNING, RunState.QUEUED)):
        return LIVE_S
    return PAUSED_S if shown.is_live else max(ENDED_S, known.took_s / SELDOM)


def _totals_of(tasks: TaskSums, ledger: pictures.LedgerSums) -> Totals:
    by_cause = {str(outcome): n for outcome, n in zip(pictures.AFTER, tasks.retries, strict=True) if n}
    return Totals(
        tasks_ready=tasks.ready + ledger.general_ready,
        tasks_running=tasks.running + ledger.general_running,
        tasks_succeeded=tasks.succeeded,
        tasks_dead=tasks.dead,
        tasks_cancelled=tasks.cancelled,
        retries=sum(tasks.retries),
        retries_by_cause=by_cause,
        files=ledger.files,
        files_completed=ledger.files_completed,
        lines=tasks.lines,
        rows=tasks.rows,
        raw_bytes=tasks.raw_bytes,
        wire_bytes=ledger.wire_bytes,
        rejects=tasks.rejects,
        dead_letters=ledger.dead_letters,
    )
