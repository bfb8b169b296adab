"""Which hosts get work: one on which fails what succeeds elsewhere is set aside, and a retry goes to another host first.

``judge`` decides from values; ``HostWatch`` keeps what was heard, writes what was decided and places tasks. Host is a name as
workers give it (their machine's), never an address.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from protheon_dask.ledger import hosts, runs, verbs
from protheon_dask.ledger.connect import Connection
from protheon_dask.model import Cost, Dispatch, Lease, Outcome, Seen, TaskState
from protheon_dask.run.dask_link import WorkerSeen
from protheon_dask.run.tasks import MISFIT, RAISED, REFUSED

logger = logging.getLogger(__name__)

ASIDE_S = 300.0
"""How long a host gets no work before it is tried again with one task."""
N_FAILED = 3
"""Different tasks that failed in a row on one host, while another succeeds, before it is the host's fault."""
PREFER_S = 10.0
"""How long a retry waits for another host than the one its last attempt failed on."""
N_HEARD = 1_000
"""Endings that are looked back upon; and failures of hosts that were judged, which speak of their tasks still."""


class Ended(StrEnum):
    """How an attempt ended, as far as it speaks of its host."""

    GOOD = "good"  # it succeeded
    BAD = "bad"  # it failed, crashed, or the process could not claim it
    MISFIT = "misfit"  # the host lacks what the pipeline needs: a module, a version, a key


@dataclass(frozen=True, slots=True)
class Ending:
    """One attempt that ended on a host. run_id is None where it could not be claimed, or is of no run."""

    host: str
    seen: Seen
    run_id: int | None
    ended: Ended
    message: str = ""


@dataclass(frozen=True, slots=True)
class Aside:
    """Set this host aside; what these attempts cost is its fault, and is given back."""

    host: str
    reason: str
    attempts: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause this run: no host can work for it. What these attempts cost is given back."""

    run_id: int
    reason: str
    attempts: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to do about hosts."""

    aside: tuple[Aside, ...] = ()
    readmitted: tuple[str, ...] = ()
    late: tuple[Seen, ...] = ()  # what was under way on a host when it was set aside, and failed like what was before: given back too
    paused: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedOn:
    """A task that failed on a host: what is kept of an ending after its host was judged."""

    host: str
    task_id: int


def judge(
    endings: Sequence[Ending],
    working: Collection[str],
    tried: Collection[str],
    aside_yet: Collection[str] = (),
    judged: Collection[FailedOn] = (),
) -> Judgement:
    """Decide from what was heard, oldest first.

    working:   hosts that have workers and are not set aside. tried: hosts that are aside and whose time is over. aside_yet: others.
    judged:    failures that are among the endings no more: they say of their tasks that these fail, on whichever host.
    Guarantee: a host is set aside only while another one works; a host whose last ending is good stays; what is given back was
               charged on that host, for tasks that failed on no other.
    """
    aside, readmitted = [], []
    left = set(working)
    for host in sorted(tried):
        elsewhere = _failed_elsewhere(endings, host, judged)
        heard = [ending for ending in endings if ending.host == host]
        first = next((e for e in heard if not left or e.ended is not Ended.BAD or e.seen.task_id not in elsewhere), None)
        if first is None:  # nothing was heard, or what fails everywhere failed: another task is tried
            continue
        if first.ended is Ended.GOOD or not left:  # without another host there is no comparison
            readmitted.append(host)
        else:
            own = [(n, e) for n, e in _streak(endings, host) if e.ended is Ended.MISFIT or e.seen.task_id not in elsewhere]
            aside.append(Aside(host, f"tried again: {first.message}", _attempts(own)))
    for host in sorted(working):
        others = left - {host}
        if others and (verdict := _fault_of(endings, host, others, judged)) is not None:
            aside.append(verdict)
            left = others
    late = tuple(ending.seen for ending in endings if ending.host in aside_yet and ending.ended is not Ended.GOOD)
    return Judgement(tuple(aside), tuple(readmitted), late, tuple(_pauses(endings, left)))


def _failed_elsewhere(endings: Sequence[Ending], host: str, judged: Collection[FailedOn]) -> set[int]:
    """Tasks that failed on another host than this."""
    heard = {ending.seen.task_id for ending in endings if ending.ended is not Ended.GOOD and ending.host != host}
    return heard | {item.task_id for item in judged if item.host != host}


def _fault_of(endings: Sequence[Ending], host: str, others: Collection[str], judged: Collection[FailedOn]) -> Aside | None:
    """The verdict on a host that failed where others succeeded, or None."""
    failed_elsewhere = _failed_elsewhere(endings, host, judged)
    streak = _streak(endings, host)
    own = [(n, ending) for n, ending in streak if ending.seen.task_id not in failed_elsewhere]
    for lacking in _misfits(endings, host):
        of_run = [(n, e) for n, e in enumerate(endings) if e.host == host and e.run_id == lacking and e.ended is Ended.MISFIT]
        if _succeeded(endings, others, lacking, of_run[0][0], len(endings)):
            return Aside(host, f"it lacks what other hosts have: {of_run[-1][1].message}", _attempts({*own, *of_run}))
    for run_id in dict.fromkeys(ending.run_id for _, ending in own):
        of_run = [(n, ending) for n, ending in own if ending.run_id == run_id]
        different = {ending.seen.task_id for _, ending in of_run}
        if len(different) >= N_FAILED and _succeeded(endings, others, run_id, of_run[0][0], of_run[-1][0]):
            told = f"{len(different)} chunks in a row failed there and on no other host, the last: {of_run[-1][1].message}"
            return Aside(host, told, _attempts(own))
    return None


def _streak(endings: Sequence[Ending], host: str) -> list[tuple[int, Ending]]:
    """What ended badly on a host since something went well there, with its place."""
    found: list[tuple[int, Ending]] = []
    for n, ending in enumerate(endings):
        if ending.host == host:
            found = [] if ending.ended is Ended.GOOD else [*found, (n, ending)]
    return found


def _succeeded(endings: Sequence[Ending], others: Collection[str], run_id: int | None, first: int, last: int) -> bool:
    """Did another host succeed between these places, in the same run?"""
    between = endings[first:last]
    return any(e.ended is Ended.GOOD and e.host in others and run_id in (None, e.run_id) for e in between)


def _misfits(endings: Sequence[Ending], host: str) -> list[int]:
    """Runs for which this host lacks something: that was the last thing heard of it."""
    latest = {ending.run_id: ending.ended for ending in endings if ending.host == host}
    return [run_id for run_id, ended in latest.items() if ended is Ended.MISFIT and run_id is not None]


def _pauses(endings: Sequence[Ending], working: Collection[str]) -> list[Pause]:
    """Runs for which every host that works lacks something."""
    if not working:
        return []
    lacking = set.intersection(*(set(_misfits(endings, host)) for host in working))
    pauses = []
    for run_id in sorted(lacking):
        of_run = [(n, e) for n, e in enumerate(endings) if e.run_id == run_id and e.ended is Ended.MISFIT and e.host in working]
        where = "on every host" if len(working) > 1 else f"on {of_run[-1][1].host}"
        pauses.append(Pause(run_id, f"{where}: {of_run[-1][1].message}", _attempts(of_run)))
    return pauses


def _attempts(found: Collection[tuple[int, Ending]]) -> tuple[Seen, ...]:
    return tuple(ending.seen for _, ending in sorted(found, key=lambda pair: pair[0]))


class HostWatch:
    """The coordinator's judgement about hosts. Used by its thread alone, but for what ``told`` and ``reasons`` say.

    Guarantee: what was judged is forgotten only after it was written; a broker that dies forgets endings, never who is aside.
    """

    def __init__(self) -> None:
        self._endings: deque[Ending] = deque(maxlen=N_HEARD)
        self._judged: deque[FailedOn] = deque(maxlen=N_HEARD)
        self._is_unsettled = True
        self._aside: dict[str, hosts.HostAside] = {}
        self._tries: dict[str, Dispatch] = {}  # the one task with which a host is tried
        self._preferring: dict[Dispatch, float] = {}  # retries that wait for another host -> until when
        self._anywhere: set[Seen] = set()  # retries that have waited long enough: Dask has them already
        self._owed: dict[Seen, tuple[Cost, ...]] = {}  # what is to be given back, and was locked when that was tried
        self._copies = itertools.count(1)

    def hear(self, conn: Connection, dispatch: Dispatch, word: str, host: str) -> None:
        """An attempt was answered; the ledger knows how it ended."""
        seen = Seen(dispatch.task_id, dispatch.attempt_no + 1)
        if word.startswith((REFUSED, RAISED)):
            self.note(Ending(host, seen, None, Ended.BAD, word))
        elif (attempt := hosts.ended_attempt(conn, seen)) is not None and attempt.host == host:
            if attempt.outcome is Outcome.SUCCEEDED:
                self.note(Ending(host, seen, attempt.run_id, Ended.GOOD))
            elif attempt.cost is Cost.FAILURE and attempt.run_id is not None:  # of a task without a run its function is the first suspect
                ended = Ended.MISFIT if word == MISFIT else Ended.BAD
                self.note(Ending(host, seen, attempt.run_id, ended, attempt.message or ""))

    def note(self, ending: Ending) -> None:
        """Something ended on a host."""
        self._endings.append(ending)
        self._is_unsettled = True

    def settle(self, conn: Connection, epoch: int, workers: Sequence[WorkerSeen], *, is_due: bool) -> None:
        """Judge what was heard, write it, and learn who is aside. is_due: look even though nothing was heard."""
        if not (is_due or self._is_unsettled):
            return
        aside = {item.host: item for item in hosts.hosts_aside(conn)}
        self._drop(set(aside) - set(self._aside))  # what was heard of it before is no answer to the one task that it is tried with
        self._aside = aside
        present = {worker.host for worker in workers}
        tried = {host for host, item in self._aside.items() if item.is_due}
        verdict = judge(tuple(self._endings), present - set(self._aside), tried, set(self._aside) - tried, self._judged)
        if verdict != Judgement():
            self._write(conn, epoch, verdict)
            self._forget(verdict)
        for costs in set(self._owed.values()):
            self._give_back(conn, epoch, [seen for seen, owed in self._owed.items() if owed == costs], costs)
        self._drop({host for host, item in aside.items() if not item.is_due})
        if verdict != Judgement():
            self._aside = {item.host: item for item in hosts.hosts_aside(conn)}
        self._is_unsettled = False

    def _write(self, conn: Connection, epoch: int, verdict: Judgement) -> None:
        """Each thing in a transaction of its own: a replay of dead letters locks runs, then tasks, so nobody may pause with tasks held."""
        for aside in verdict.aside:
            with conn.transaction():  # once a host is known to be aside what was heard of it is forgotten
                hosts.set_host_aside(conn, epoch, aside.host, aside.reason, ASIDE_S)
                n_given = self._give_back(conn, epoch, aside.attempts, (Cost.FAILURE, Cost.CRASH))
            logger.warning("host.aside", extra={"host": aside.host, "reason": aside.reason, "given_back": n_given})
        self._give_back(conn, epoch, verdict.late, (Cost.FAILURE, Cost.CRASH))
        for host in verdict.readmitted:
            hosts.readmit_host(conn, epoch, host)
            logger.info("host.readmitted", extra={"host": host})
        for pause in verdict.paused:
            last = pause.attempts[-1]
            self._give_back(conn, epoch, pause.attempts, (Cost.FAILURE,))
            if runs.pause_run(conn, pause.run_id, pause.reason, by=Lease(last.task_id, last.attempt_no, 0.0)):
                logger.warning("run.pause", extra={"run_id": pause.run_id, "reason": pause.reason})

    def _give_back(self, conn: Connection, epoch: int, attempts: Sequence[Seen], costs: tuple[Cost, ...]) -> int:
        """Give back what is not locked, and note the rest for the next time; return how many were given back."""
        if not attempts:
            return 0
        answers = hosts.give_back(conn, attempts, costs, epoch=epoch)
        locked = {item.seen for item in answers if item.is_locked}
        self._owed = {seen: owed for seen, owed in self._owed.items() if seen not in attempts} | dict.fromkeys(locked, costs)
        return len(answers) - len(locked)

    def _forget(self, verdict: Judgement) -> None:
        self._drop({item.host for item in verdict.aside} | set(verdict.readmitted))
        paused, late = {item.run_id for item in verdict.paused}, set(verdict.late)
        self._keep_failed(ending for ending in self._endings if ending.seen in late)
        self._endings = deque((e for e in self._endings if e.run_id not in paused and e.seen not in late), maxlen=N_HEARD)

    def _keep_failed(self, endings: Iterable[Ending]) -> None:
        """Else chunks that fail everywhere would set one host after another aside, each time with nothing known of the last."""
        self._judged.extend(FailedOn(ending.host, ending.seen.task_id) for ending in endings if ending.ended is Ended.BAD)

    def _drop(self, of_hosts: Collection[str]) -> None:
        self._keep_failed(ending for ending in self._endings if ending.host in of_hosts)
        self._endings = deque((ending for ending in self._endings if ending.host not in of_hosts), maxlen=N_HEARD)

    @property
    def told(self) -> str | None:
        """Who gets no work, until when, and why; None: all do."""
        return hosts.aside_words(tuple(self._aside.values()))

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why no work is given to which hosts. Thread-safe: the dictionary is replaced, never changed."""
        return {host: item.reason for host, item in self._aside.items()}

    # --- placing --------------------------------------------------------------------------------------------------------

    def free(self, workers: Sequence[WorkerSeen]) -> list[WorkerSeen]:
        """Workers that get work."""
        return [worker for worker in workers if worker.host not in self._aside]

    def to_try(self, workers: Sequence[WorkerSeen], dispatched: Mapping[int, Dispatch]) -> list[str]:
        """Hosts that are to be tried with one task now."""
        here = {worker.host for worker in workers}
        self._tries = {host: item for host, item in self._tries.items() if dispatched.get(item.task_id) == item}
        return [host for host, item in self._aside.items() if item.is_due and host in here and host not in self._tries]

    def place(
        self, tasks: Sequence[verbs.Ready], workers: Sequence[WorkerSeen], dispatched: Mapping[int, Dispatch], now: float
    ) -> dict[tuple[str, ...] | None, list[Dispatch]]:
        """Where these tasks may go: addresses of workers, None for any. now: monotonic seconds.

        What no host may take is left out. Nothing is restricted, but while a host is aside or for a retry that prefers another
        host: restricted tasks do not wait at the scheduler but with a worker (PITFALLS 3).
        """
        free, to_try = self.free(workers), self.to_try(workers, dispatched)
        anywhere = None if len(free) == len(workers) else _addresses(free)
        placed: dict[tuple[str, ...] | None, list[Dispatch]] = {}
        for task in tasks:
            item = Dispatch(task.seen.task_id, task.seen.attempt_no, task.handler)
            if task.seen in self._anywhere:
                item = replace(item, copy_no=next(self._copies))
            others = [worker for worker in free if worker.host != task.failed_on]
            where = anywhere
            if to_try and (task.failed_on != to_try[-1] or not free):
                host = to_try.pop()
                self._tries[host] = item
                where = _addresses([worker for worker in workers if worker.host == host])
            elif not free:
                continue
            elif task.failed_on is not None and task.seen not in self._anywhere and others:
                # also where that host is just not there: it may come back
                where = _addresses(others)
                self._preferring[item] = now + PREFER_S
            self._anywhere.discard(task.seen)
            placed.setdefault(where, []).append(item)
        return placed

    def waited_enough(self, conn: Connection, dispatched: Mapping[int, Dispatch], now: float) -> list[Dispatch]:
        """Retries that no other host has taken within PREFER_S: they are to be dispatched again, anywhere.

        Guarantee: a task that is with Dask twice is claimed once.
        """
        self._preferring = {item: until for item, until in self._preferring.items() if dispatched.get(item.task_id) == item}
        over = {Seen(item.task_id, item.attempt_no): item for item, until in self._preferring.items() if until <= now}
        if not over:
            return []
        for item in over.values():
            del self._preferring[item]
        looked = verbs.look(conn, [seen.task_id for seen in over])
        waiting = {Seen(look.task_id, look.attempt_no) for look in looked if look.state is TaskState.READY} & set(over)
        self._anywhere |= waiting
        return [over[seen] for seen in waiting]


def _addresses(workers: Sequence[WorkerSeen]) -> tuple[str, ...]:
    return tuple(worker.address for worker in workers)
