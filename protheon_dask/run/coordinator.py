"""The coordinator: brings ready tasks to Dask, takes back what was lost, cuts sources ahead, and ends loads and runs.

One thread, one direct connection that holds the leadership. It decides from the ledger alone: what Dask and splitters say only
tells it where to look.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from distributed import WorkerPlugin

from protheon_dask import failpoints
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, LeadershipLost, LedgerUnavailable
from protheon_dask.ledger import chunks, leadership, runs, verbs
from protheon_dask.ledger.connect import Connection, check_direct, check_writable, connect, translated
from protheon_dask.ledger.hosts import holder_of
from protheon_dask.ledger.migrate import check_current
from protheon_dask.ledger.transaction import is_of_server, sqlstate_of
from protheon_dask.model import Cost, Dispatch, Failed, Lease, Outcome, RunState, Seen, TaskState
from protheon_dask.policy import OVER_LIMIT, dispatch_window
from protheon_dask.run.cutting import Cutting, Wanted
from protheon_dask.run.dask_link import Answered, DaskEvent, DaskLink, WorkerGone, WorkerSeen
from protheon_dask.run.failure import end_without_effect, tell_dead
from protheon_dask.run.finishing import TableFinisher
from protheon_dask.run.hosts import Ended, Ending, HostWatch
from protheon_dask.run.splitters import FromSplitter, SplitterPool
from protheon_dask.run.stuck import StuckWorkers
from protheon_dask.run.tasks import CANCELLED, CORRUPT, NOT_CLAIMED, OUTAGE, RAISED, REFUSED, SUCCEEDED
from protheon_dask.run.trust.identity import own_name
from protheon_dask.words import counted
from protheon_dask.workspace.chunkfile import ChunkStore

logger = logging.getLogger(__name__)

IDLE_S = 0.5
"""Longest pause between two rounds; events wake it at once."""
SWEEP_S = 1.0
"""Period of what costs a query over open work: expiry, cancelled runs, ended loads and runs, bytes sent."""
OUTAGE_S = 1.0
"""Pause between tries while PostgreSQL is away."""
TURNED_AWAY = ("40001", "40P01", "55P03")
"""SQLSTATEs of who met another transaction, in a deadlock, say: PostgreSQL is there, and so is the lead; the next round tries again."""
MAX_HOLD_S = 30.0
"""Longest pause of dispatching after refused claims."""
DIED = "the worker process died"
Event = DaskEvent | FromSplitter | Wanted


class Coordinator:
    """Single use. start_leading() in the caller's thread, then run() until stop().

    Guarantee: dispatches, sweeps and cuts only while it leads; LeadershipLost ends run(). PostgreSQL and the scheduler may go
    and come back; nothing is charged for that.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        scheduler_address: str,
        store: ChunkStore,
        broker_uuid: UUID,
        n_splitters: int,
        guest: WorkerPlugin | None = None,
    ) -> None:
        """guest: as DaskLink has it."""
        self.settings, self._url, self._broker_uuid = settings, url, broker_uuid
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._events: deque[Event] = deque()
        tls = TlsFiles(Path(settings.tls_dir)) if settings.tls_dir else None
        self._dask = DaskLink(scheduler_address, self.tell, self._wake.set, tls, guest)
        self.cutting = Cutting(store, SplitterPool(store, n_splitters, self.tell), broker_uuid, own_name(settings))
        self._finisher = TableFinisher(url, self.wake)
        self._dispatched: dict[int, Dispatch] = {}
        self._gone: dict[Seen, bool] = {}  # attempts whose process is known to be gone -> its nanny lives
        self._look: set[int] = set()  # tasks whose file may have to go
        self.hosts = HostWatch()
        self._stuck = StuckWorkers(settings.exit_grace_s + settings.renew_s, self._dask.restart)
        self._unanswered: set[int] = set()  # tasks that run, and of which Dask will not tell us: an earlier scheduler, or broker, had them
        self._sent: Counter[int] = Counter()  # bytes sent by chunk, since they were last written
        self._sent_lock = threading.Lock()
        self._n_threads = 0
        self._refusals, self._hold_until = 0, 0.0  # claims in a row that were refused; no dispatch before
        self._outages = 0  # attempts that PostgreSQL could not serve, since one succeeded
        self._swept_at = self._hosts_at = 0.0
        self._expire_from = 0.0
        self._heard_s = self._heard_at = 0.0  # when the ledger last told whose lease ran out: monotonic, and by the wall clock
        self._ephemeral = False
        self.owner_lives: Callable[[], bool] = lambda: True  # asked of an ephemeral cluster: the command that it lives for
        self._conn: Connection | None = None
        self.leadership: leadership.Leadership | None = None
        self.waiting_for: str | None = None  # an outage, in words; None: all is well
        self.waiting_since_at = 0.0
        self.ledger_lost_at: float | None = None  # since when PostgreSQL is away; None: it is there
        self.round_at = time.time()  # when the last round ended
        self._told_of_dask: str | None = None  # what waiting_for says where it is Dask that is waited for

    # --- called from other threads --------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand over an event."""
        self._inbox.put(event)
        self._wake.set()

    def wake(self) -> None:
        """Something in the ledger changed: look now."""
        self._swept_at = self._hosts_at = 0.0
        self._wake.set()

    def look_for_ready(self) -> None:
        """A task became ready: dispatch it now; nothing has to be swept for that."""
        self._wake.set()

    def count_sent(self, chunk_id: int, n_bytes: int) -> None:
        """Chunk bytes went out."""
        with self._sent_lock:
            self._sent[chunk_id] += n_bytes

    def stop(self) -> None:
        """End run() after the round that is in progress."""
        self._stopping.set()
        self._wake.set()

    @property
    def dask(self) -> DaskLink:
        """The link to the scheduler: what it told last, and how it is called."""
        return self._dask

    @property
    def n_threads(self) -> int:
        """Worker threads, as last counted."""
        return self._n_threads

    # --- leading --------------------------------------------------------------------------------------------------------

    def start_leading(self, *, ephemeral: bool, goes_on: bool = False) -> bool:
        """Take the lead and put the workspace in order; False: another broker leads.

        ephemeral: runs of an earlier cluster that lived as long as one command are interrupted: that command is gone.
        goes_on:   but for them: the cluster is the same, and its broker alone was started again.
        """
        self._ephemeral = ephemeral
        conn = connect(self._url, application="protheon-coordinator")
        with contextlib.ExitStack() as unless_it_leads, translated(self._url):
            unless_it_leads.callback(conn.close)  # a session that failed on the way would hold the lock against the next try
            check_current(conn, for_runs=False)
            check_writable(conn, self._url)
            check_direct(conn, self._url)
            self.leadership = leadership.take(conn, self._broker_uuid)
            if self.leadership is None:
                return False
            runs.abandon_queued(conn)
            if ephemeral and not goes_on:
                self._cancel_ephemeral(conn, with_tasks=False)  # theirs may be at work for a master that was here since
            stored = chunks.stored(conn)
            unless_it_leads.pop_all()
        self._conn = conn
        self._expire_from = time.monotonic() + self.settings.lease_s  # PostgreSQL may have been away: workers renew first
        self._unanswered = {item.task_id for item in stored if item.state is TaskState.RUNNING}
        self.cutting.adopt(str(self.leadership.ledger_id), stored)
        return True

    def run(self) -> None:
        """Work until stop(). Raises LeadershipLost, and what is a defect."""
        try:
            while not self._stopping.is_set():
                self._wake.wait(IDLE_S)
                self._wake.clear()
                try:
                    self._round()
                    self.round_at = time.time()
                except LedgerUnavailable as exc:
                    if sqlstate_of(exc) in TURNED_AWAY and not self._ledger.closed:
                        logger.warning("ledger.turned_away", extra={"error": str(exc)})
                        continue
                    self._wait_for_ledger(exc)
                except ConfigError as exc:
                    if not is_of_server(exc):
                        raise
                    self._wait_for_ledger(exc)  # PostgreSQL refuses what it took before: a right, a standby; the operator mends it
        finally:
            self.cutting.stop()
            self._finisher.stop()
            self._dask.close()
            if self._stopping.is_set():  # a defect ends this process, not the command: it is started again, and the runs go on
                self._interrupt()
            if self._conn is not None:
                self._conn.close()

    def _cancel_ephemeral(self, conn: Connection, *, with_tasks: bool) -> None:
        """The command that runs of this kind lived for is gone, and its workers with it: nobody is charged. Tasks go on later."""
        for run_id in runs.ephemeral_runs(conn):
            with conn.transaction():
                runs.cancel_run(conn, run_id, runs.INTERRUPTED)
        with conn.transaction():
            for item in verbs.expire(conn, self._epoch, runs.ephemeral_attempts(conn, with_tasks=with_tasks)):
                if item.known_gone:
                    verbs.release(conn, item.lease, Failed(Cost.NOTHING, "Interrupted", runs.INTERRUPTED), Outcome.RELEASED, 0.0)

    def _interrupt(self) -> None:
        """The command that this cluster lives for ends: say so of its runs, if PostgreSQL still answers."""
        if self._ephemeral and self._conn is not None:
            with contextlib.suppress(LedgerUnavailable, ConfigError), translated():
                self._cancel_ephemeral(self._conn, with_tasks=True)

    @property
    def _epoch(self) -> int:
        assert self.leadership is not None, "run() comes after start_leading()"
        return self.leadership.epoch

    @property
    def _ledger(self) -> Connection:
        assert self._conn is not None, "run() comes after start_leading()"
        return self._conn

    def _wait_for_ledger(self, exc: LedgerUnavailable | ConfigError) -> None:
        """PostgreSQL is away: take the lead anew when it is back. The lock went with the connection, so another may have it.

        Where only our side lost the connection, the server's session of it holds the lock until its keep-alives fail: it is ended.
        """
        logger.warning("ledger.lost", extra={"error": str(exc)})
        self.waiting_for, self.waiting_since_at = str(exc), time.time()
        self.ledger_lost_at = self.waiting_since_at
        if self._conn is not None:
            self._conn.close()
        while not self._stopping.wait(OUTAGE_S):
            try:
                conn = connect(self._url, application="protheon-coordinator")
            except LedgerUnavailable as still:
                self.waiting_for = str(still)
                continue
            except ConfigError as refused:  # it let us in before: a server that is being restored or moved, or a name that is lost
                self.waiting_for = str(refused)
                logger.warning("ledger.refused", extra={"error": str(refused)})
                continue
            try:
                with translated(self._url):
                    lead = leadership.take(conn, self._broker_uuid)
                    is_ours = lead is not None or leadership.end_own_session(conn, self._broker_uuid)
            except (LedgerUnavailable, ConfigError) as refused:  # a full disk, a standby: said as it is now
                self.waiting_for = str(refused)
                conn.close()
                continue
            if lead is None:
                conn.close()
                if is_ours:
                    logger.warning("ledger.session_ended", extra={"broker_uuid": str(self._broker_uuid)})
                    continue
                raise LeadershipLost(self._epoch)
            self._conn, self.leadership, self.waiting_for, self.ledger_lost_at = conn, lead, None, None
            self._expire_from = time.monotonic() + self.settings.lease_s  # workers renew first
            logger.info("ledger.back", extra={"away_s": time.time() - self.waiting_since_at})
            return

    def _round(self) -> None:
        while not self._inbox.empty():
            self._events.append(self._inbox.get())
        with translated(self._url):
            while self._events:
                self._take(self._events[0])
                self._events.popleft()  # only now: an event whose ledger was away is taken again
            now = time.monotonic()
            due = now - self._swept_at >= SWEEP_S
            is_ending = self._ephemeral and (self._stopping.is_set() or not self.owner_lives())
            if (due or self._gone) and not is_ending:  # its workers end with it: no loss
                self._expire(now)
            if due:
                self._swept_at = now
                with self._ledger.transaction():
                    runs.adopt_orphans(self._ledger)  # first: what another run waits for is not cancelled
                verbs.cancel(self._ledger)
                self._look |= self._unanswered
            self._unanswered -= self._look
            self._unanswered |= self.cutting.settle(self._ledger, self._look)
            self._look.clear()
            if due:
                self.cutting.put_aside(self._ledger, self._dispatched)
            self.cutting.work(self._ledger)
            self._dispatch()
            if due:
                self._write_sent()
                self._end_runs()

    # --- events ---------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Answered(dispatch=dispatch, word=word, host=host):
                self._forget(dispatch)
                if word.startswith(CANCELLED) or word == NOT_CLAIMED:
                    self._stuck.forgotten(dispatch)
                else:
                    self._stuck.answered(dispatch)
                if host is not None:
                    self.hosts.hear(self._ledger, dispatch, word, host)
                if word == CORRUPT:
                    self.cutting.drop_file(self._ledger, dispatch.task_id)
                self._note_refusal(word)
            case WorkerGone(dispatch=dispatch, worker=worker, nanny_lives=nanny_lives):
                self._forget(dispatch)
                self._stuck.forgotten(dispatch)  # a process that is gone is not restarted anyway, and it need not be the one that held it
                attempt = Seen(dispatch.task_id, dispatch.attempt_no + 1)
                holder = holder_of(self._ledger, attempt)
                if holder is not None and holder.worker == worker:  # else it was never claimed, or by another process
                    self._gone[attempt] = nanny_lives
                    if nanny_lives and holder.run_id is not None:  # of a task without a run its function is the first suspect
                        self.hosts.note(Ending(holder.host, attempt, holder.run_id, Ended.BAD, DIED))
            case Wanted():
                self.cutting.note_missing(self._ledger, event)
            case FromSplitter():
                if self.cutting.take(self._ledger, self._epoch, event):
                    self._swept_at = 0.0  # a load, or a run, may have ended with it

    def _forget(self, dispatch: Dispatch) -> None:
        if self._dispatched.get(dispatch.task_id) == dispatch:
            del self._dispatched[dispatch.task_id]
        self._look.add(dispatch.task_id)
        self._swept_at = 0.0 if not self._dispatched else self._swept_at  # the last ones may end a run

    def _note_refusal(self, word: str) -> None:
        """Say why workers get nowhere. Where they cannot even claim, dispatching at once again would only spin: wait, longer each time."""
        if word.startswith(OUTAGE):  # their tasks come back after a pause of their own
            if not self._outages:
                self.waiting_since_at = time.time()
            self._outages += 1
            self.waiting_for = word.removeprefix(OUTAGE)
        elif self._outages and word == SUCCEEDED:
            self._outages, self.waiting_for = 0, None
        elif word.startswith((REFUSED, RAISED)):
            self._refusals += 1
            self._hold_until = time.monotonic() + min(MAX_HOLD_S, 2.0 ** min(self._refusals, 10))
            if self._refusals == 1:
                self.waiting_since_at = time.time()
            self.waiting_for = f"workers cannot take chunks: {word}"
        elif self._refusals:
            self._refusals, self._hold_until, self.waiting_for = 0, 0.0, None

    # --- the parts of a round ---------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        """Take back attempts whose process is known to be gone, and those whose lease ran out; end what they still hold.

        Guarantee: what is known to be gone is known until it was taken back or is over: an outage, or a row that is locked at this
        instant, makes no task wait out its lease and be charged a loss.
        """
        gone = dict(self._gone)
        taken: list[int] = []
        told_of: list[tuple[Lease, str, str | None]] = []  # what was taken back and why, and why its task is dead
        with self._ledger.transaction():
            expiring = verbs.expire(self._ledger, self._epoch, list(gone))
            may_expire = self._may_expire()  # after it was heard: the statement itself may have hung
            for item in expiring:
                seen = Seen(item.lease.task_id, item.lease.attempt_no)
                if not item.known_gone and not may_expire:
                    continue
                if not item.known_gone:
                    cost, outcome, told = Cost.LOSS, Outcome.EXPIRED, f"its lease of {self.settings.lease_s:g} s ran out"
                elif gone[seen]:
                    cost, outcome, told = Cost.CRASH, Outcome.CRASHED, DIED
                else:
                    cost, outcome, told = Cost.LOSS, Outcome.CRASHED, "the worker's host or nanny was lost"
                if not item.known_gone and (holder := holder_of(self._ledger, seen)) is not None:
                    was = self._dispatched.get(seen.task_id)
                    is_ours = was is not None and was.attempt_no + 1 == seen.attempt_no
                    self._stuck.expired(seen, holder.process_uuid, now, was if is_ours else None)
                failed = Failed(cost, "WorkerDied", told)
                dead = end_without_effect(self._ledger, item.lease, failed, outcome, item.spent, self.settings.retry_policy)
                told_of.append((item.lease, told, dead))
                taken.append(seen.task_id)
            if taken:
                failpoints.hit("expire.before")
        if taken:
            failpoints.hit("expire.after")
        for lease, told, dead in told_of:
            logger.warning("task.expire", extra={"task_id": lease.task_id, "attempt_no": lease.attempt_no, "reason": told})
            tell_dead(lease, dead)
        for seen in gone:
            if holder_of(self._ledger, seen) is None:  # taken back just now, or it ended otherwise
                del self._gone[seen]
        stuck = verbs.stuck(self._ledger, self.settings.complete_grace_s) if may_expire else []
        for seen in stuck:
            logger.warning("task.stuck", extra={"task_id": seen.task_id, "attempt_no": seen.attempt_no})
        if taken or stuck:
            verbs.terminate(self._ledger, [*taken, *(seen.task_id for seen in stuck)])
        for task_id in taken:
            self._dispatched.pop(task_id, None)  # a frozen worker's key frees its slot in the window
        self._look.update(taken)

    def _may_expire(self) -> bool:
        """Do leases that ran out count? Not where the ledger was not heard of for so long that a live worker's may be among them.

        It, the way to it, this process or this machine stood still, and maybe the workers as well: they renew first.
        """
        now_s, now_at = time.monotonic(), time.time()
        silent_s = max(now_s - self._heard_s, now_at - self._heard_at)  # of a machine that slept the wall clock alone tells
        self._heard_s, self._heard_at = now_s, now_at
        left_s = self.settings.lease_s - self.settings.renew_s  # of a lease, at least, when its worker falls silent
        if silent_s > max(left_s, 2 * SWEEP_S):
            self._expire_from = now_s + self.settings.lease_s
        return now_s >= self._expire_from

    def _dispatch(self) -> None:
        """Fill the window: enough tasks with Dask to keep fast hosts busy, and no more."""
        try:
            workers = self._dask.workers()
            self._n_threads = sum(worker.n_threads for worker in workers)
            self._look_after_hosts(workers)
            if time.monotonic() < self._hold_until:
                return
            if not workers:
                self._wait_for("no worker is with the Dask scheduler")
                return
            free, to_try = self.hosts.free(workers), self.hosts.to_try(workers, self._dispatched)
            if not free and not to_try and not self._dispatched:
                self._wait_for(f"no host can work: {self.hosts.told}")
                return
            n_free = sum(worker.n_threads for worker in free)
            room = dispatch_window(n_free, self.settings.window_per_thread) - len(self._dispatched) if free else len(to_try)
            if room > 0:
                self._hand_over(self._pick(room), workers)
            if not self._refusals and not self._outages:
                self.waiting_for = None
        except OSError as exc:
            self._wait_for(f"the Dask scheduler does not answer: {exc}")

    def _hand_over(self, tasks: list[verbs.Ready], workers: tuple[WorkerSeen, ...]) -> None:
        placed = self.hosts.place(tasks, workers, self._dispatched, time.monotonic())
        for where, items in placed.items():
            failpoints.hit("dispatch.before")
            self._dask.dispatch(items, where)
            failpoints.hit("dispatch.after")
            self._dispatched.update((item.task_id, item) for item in items)
        self.cutting.unpark(task for task in tasks if task.seen.task_id in self._dispatched)

    def _look_after_hosts(self, workers: tuple[WorkerSeen, ...]) -> None:
        """Set hosts aside, try them again, restart what is stuck there, and let retries go anywhere that have waited for another host."""
        now = time.monotonic()
        is_due = now - self._hosts_at >= SWEEP_S
        self._hosts_at = now if is_due else self._hosts_at
        self.hosts.settle(self._ledger, self._epoch, workers, is_due=is_due)
        self._stuck.settle(self._ledger, workers, now)
        for item in self.hosts.waited_enough(self._ledger, self._dispatched, now):
            del self._dispatched[item.task_id]

    def _wait_for(self, what: str) -> None:
        """Say what dispatching waits for, and since when; what was said before of PostgreSQL or of the workers stands."""
        if self.waiting_for is None:
            self.waiting_since_at = time.time()
        elif self.waiting_for != self._told_of_dask:
            return
        self.waiting_for = self._told_of_dask = what

    def _pick(self, n: int) -> list[verbs.Ready]:
        """Up to n ready tasks whose files are there; the others' are cut again first."""
        ready = verbs.pick_ready(self._ledger, [*self._dispatched, *self.cutting.without_file], n)
        return self.cutting.with_file(self._ledger, ready)

    def _write_sent(self) -> None:
        with self._sent_lock:
            sent = Counter(self._sent)
        if sent:
            with self._ledger.transaction():
                for chunk_id, n_bytes in sent.items():
                    runs.add_wire_bytes(self._ledger, chunk_id, n_bytes)
            with self._sent_lock:
                self._sent -= sent  # only now: what was not written is written later; keeps what was sent since

    def _end_runs(self) -> None:
        """Finish loads of which every chunk succeeded, then end the runs that have nothing left to do."""
        for load_id in runs.finish_loads(self._ledger):
            self.cutting.store.delete_load(load_id)  # a chunk may have gone by a dispatch of the broker before us, which nobody answers
        for item in runs.open_runs(self._ledger):
            if item.n_live_loads:
                continue
            committed = runs.count_lines(self._ledger, item.run_id)
            reasons = list(item.messages)
            if given_up := committed.purged:
                told = counted(given_up, "dead chunk was", "dead chunks were")
                reasons.append(f"{told} purged: protheon dlq list {item.run_id} --all")
            if dead := committed.dead - committed.purged:
                reasons.append(f"{counted(dead, 'chunk is', 'chunks are')} dead: protheon dlq list {item.run_id}")
            if item.limit.is_crossed(committed.rejected, committed.lines, at_end=True):
                are = "is" if committed.rejected == 1 else "are"
                reasons.append(f"{OVER_LIMIT} {item.limit}: {committed.rejected:,} of {committed.lines:,} lines {are} rejected")
            if item.n_unfinished and not reasons:
                reasons.append(f"{'1 file is' if item.n_unfinished == 1 else f'{item.n_unfinished} files are'} not finished")
            problems = self._finisher.problems_nowait(item.run_id)
            if problems is None:
                continue
            reasons += problems
            state = RunState.INCOMPLETE if reasons else RunState.SUCCEEDED
            self._write_sent()
            if not runs.end_run(self._ledger, item.run_id, state, "; ".join(reasons) or None, seen=item):
                continue  # cancelled, or dead chunks of it were made ready at this moment: the next look sees
            if committed.own_lines:
                self._finisher.analyze(item.run_id)
            logger.info("run.end", extra={"run_id": item.run_id, "state": str(state)})
