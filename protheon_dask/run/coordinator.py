"""The coordinator: brings ready tasks to Dask, takes back what was lost, cuts sources ahead, and ends loads and runs.

One thread, one direct connection that holds the leadership. It decides from the ledger alone: what Dask and splitters say only
tells it where to look.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from uuid import UUID

from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, LeadershipLost, LedgerUnavailable
from protheon_dask.ledger import chunks, leadership, replays, runs, verbs
from protheon_dask.ledger.connect import Connection, check_direct, check_writable, connect, translated
from protheon_dask.ledger.migrate import check_current
from protheon_dask.ledger.transaction import is_of_server
from protheon_dask.model import Cost, Dispatch, Failed, Outcome, RunState, Seen, SplitState, TaskState
from protheon_dask.policy import dispatch_window
from protheon_dask.run.dask_link import Answered, DaskEvent, DaskLink, WorkerGone
from protheon_dask.run.failure import end_without_effect
from protheon_dask.run.finishing import TableFinisher
from protheon_dask.run.replay import LOST
from protheon_dask.run.splitters import FromSplitter, SplitterPool
from protheon_dask.run.tasks import CORRUPT, OUTAGE, RAISED, REFUSED, SUCCEEDED
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.splitting import ChunkCut, SplitEnded, SplitFailed, WideWindow
from protheon_dask.workspace.spool import SPOOLS, SpoolStore

logger = logging.getLogger(__name__)

IDLE_S = 0.5
"""Longest pause between two rounds; events wake it at once."""
SWEEP_S = 1.0
"""Period of what costs a query over open work: expiry, cancelled runs, ended loads and runs, bytes sent."""
THREADS_S = 2.0
"""How long a count of worker threads is believed."""
OUTAGE_S = 1.0
"""Pause between tries while PostgreSQL is away."""
MAX_HOLD_S = 30.0
"""Longest pause of dispatching after refused claims."""
SPLIT_RETRY_S = 10.0
"""Longest pause before a source that could not be read is tried again; the first is 1 s, each the double of the one before."""
REFUSED_TRIES = 4
"""A source that is gone, or may not be read, that often in a row is given up: a mount may be away for a moment (7 s)."""


@dataclass(frozen=True, slots=True)
class SourceWait:
    """A source that cannot be read at the moment."""

    run_id: int
    since_at: float
    n_tries: int
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody asked for a chunk whose file is missing or short."""

    load_id: int
    first_line: int
    generation: int


Event = DaskEvent | FromSplitter | Wanted


class Coordinator:
    """Single use. start_leading() in the caller's thread, then run() until stop().

    Guarantee: dispatches, sweeps and cuts only while it leads; LeadershipLost ends run(). PostgreSQL and the scheduler may go
    and come back; nothing is charged for that.
    """

    def __init__(
        self, settings: Settings, url: str, scheduler_address: str, store: ChunkStore, broker_uuid: UUID, n_splitters: int
    ) -> None:
        self.settings, self._url, self._store, self._broker_uuid = settings, url, store, broker_uuid
        self.spools = SpoolStore(store.directory / SPOOLS)
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._events: deque[Event] = deque()
        self._dask = DaskLink(scheduler_address, self.tell)
        self._splitters = SplitterPool(store, n_splitters, self.tell)
        self._finisher = TableFinisher(url, self.wake)
        self._host = socket.gethostname()
        self._dispatched: dict[int, Dispatch] = {}
        self._gone: dict[Seen, bool] = {}  # attempts whose process is known to be gone -> its nanny lives
        self._look: set[int] = set()  # tasks whose file may have to go
        self._wanted: dict[int, dict[int, chunks.StoredManifest]] = {}  # load -> first line -> chunk without a file
        self._split_after: dict[int, float] = {}  # loads whose source could not be read -> when to try again
        self._source_waits: dict[int, SourceWait] = {}  # the same, and why
        self._sent: Counter[int] = Counter()  # bytes sent by chunk, since they were last written
        self._sent_lock = threading.Lock()
        self._n_threads, self._threads_at = 0, 0.0
        self._refusals, self._hold_until = 0, 0.0  # claims in a row that were refused; no dispatch before
        self._outages = 0  # attempts that PostgreSQL could not serve, since one succeeded
        self._swept_at = 0.0
        self._expire_from = 0.0
        self._ephemeral = False
        self._conn: Connection | None = None
        self.leadership: leadership.Leadership | None = None
        self.waiting_for: str | None = None  # an outage, in words; None: all is well
        self.waiting_since_at = 0.0

    # --- called from other threads --------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand over an event."""
        self._inbox.put(event)
        self._wake.set()

    def wake(self) -> None:
        """Something in the ledger changed: look now."""
        self._swept_at = 0.0
        self._wake.set()

    def count_sent(self, chunk_id: int, n_bytes: int) -> None:
        """Chunk bytes went out."""
        with self._sent_lock:
            self._sent[chunk_id] += n_bytes

    def stop(self) -> None:
        """End run() after the round that is in progress."""
        self._stopping.set()
        self._wake.set()

    def keep_secret(self, path: str) -> None:
        """A URL with a password, which the ledger must not have."""
        self._splitters.keep_secret(path)

    def with_secret(self, path: str) -> str:
        """The path by which a source is opened: a URL with its password, if this master knows it."""
        return self._splitters.with_secret(path)

    def source_wait(self, run_id: int) -> SourceWait | None:
        """A source of the run that cannot be read at the moment, the longest waiting one."""
        waits = [wait for wait in list(self._source_waits.values()) if wait.run_id == run_id]
        return min(waits, key=lambda wait: wait.since_at, default=None)

    @property
    def n_threads(self) -> int:
        """Worker threads, as last counted."""
        return self._n_threads

    # --- leading --------------------------------------------------------------------------------------------------------

    def start_leading(self, *, ephemeral: bool) -> bool:
        """Take the lead and put the workspace in order; False: another broker leads.

        ephemeral: runs of an earlier cluster that lived as long as one command are interrupted: that command is gone.
        """
        self._ephemeral = ephemeral
        conn = connect(self._url, application="protheon-coordinator")
        with translated(self._url):
            check_current(conn)
            check_writable(conn, self._url)
            check_direct(conn, self._url)
            self.leadership = leadership.take(conn, self._broker_uuid)
            if self.leadership is None:
                conn.close()
                return False
            self._conn = conn
            runs.abandon_queued(conn)
            if ephemeral:
                self._cancel_ephemeral(conn)
            stored = chunks.stored(conn)
        self._store.move_below(str(self.leadership.ledger_id))  # clusters over other ledgers have the same workspace
        self.spools.move_below(str(self.leadership.ledger_id))
        self._store.adopt((item.load_id, item.manifest) for item in stored)  # a file that is missing is noticed when it is wanted
        for item in stored:
            if item.is_waiting:
                self._store.park(item.load_id, item.manifest.first_line)
        return True

    def run(self) -> None:
        """Work until stop(). Raises LeadershipLost, and what is a defect."""
        try:
            while not self._stopping.is_set():
                self._wake.wait(IDLE_S)
                self._wake.clear()
                try:
                    self._round()
                except LedgerUnavailable as exc:
                    self._wait_for_ledger(exc)
                except ConfigError as exc:
                    if not is_of_server(exc):
                        raise
                    self._wait_for_ledger(exc)  # PostgreSQL refuses what it took before: a right, a standby; the operator mends it
        finally:
            self._splitters.stop_all()
            self._finisher.stop()
            self._dask.close()
            self._interrupt()
            if self._conn is not None:
                self._conn.close()

    def _cancel_ephemeral(self, conn: Connection) -> None:
        """The command that runs of this kind lived for is gone, and its workers with it: nobody is charged."""
        told = "interrupted: its command ended; type the same again to go on"
        for run_id in runs.ephemeral_runs(conn):
            with conn.transaction():
                runs.cancel_run(conn, run_id, told)
        with conn.transaction():
            for item in verbs.expire(conn, self._epoch, runs.ephemeral_attempts(conn)):
                if item.known_gone:
                    verbs.release(conn, item.lease, Failed(Cost.NOTHING, "Interrupted", told), Outcome.RELEASED, 0.0)

    def _interrupt(self) -> None:
        """The command that this cluster lives for ends: say so of its runs, if PostgreSQL still answers."""
        if self._ephemeral and self._conn is not None:
            with contextlib.suppress(LedgerUnavailable, ConfigError), translated():
                self._cancel_ephemeral(self._conn)

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
            self._conn, self.leadership, self.waiting_for = conn, lead, None
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
            if due or self._gone:
                self._expire(now)
            if due:
                self._swept_at = now
                with self._ledger.transaction():
                    runs.adopt_orphans(self._ledger)  # first: what another run waits for is not cancelled
                verbs.cancel(self._ledger)
            self._settle_files()
            if due:
                self._put_aside()
                if spools := self.spools.found():
                    self.spools.sweep(spools, replays.live_spools(self._ledger))
            self._split()
            self._dispatch()
            if due:
                self._write_sent()
                self._end_runs()

    # --- events ---------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Answered(dispatch=dispatch, word=word):
                self._forget(dispatch)
                if word == CORRUPT:
                    self._drop_file(dispatch.task_id)
                self._note_refusal(word)
            case WorkerGone(dispatch=dispatch, worker=worker, nanny_lives=nanny_lives):
                self._forget(dispatch)
                attempt = Seen(dispatch.task_id, dispatch.attempt_no + 1)
                holder = verbs.worker_of(self._ledger, attempt)
                if holder is not None and holder[0] == worker:  # else it was never claimed, or by another process
                    self._gone[attempt] = nanny_lives
            case Wanted():
                known = self._store.manifest_of(event.load_id, event.first_line)
                if known is not None and known.generation == event.generation:
                    self._store.delete(event.load_id, event.first_line)  # it was not what it should be
                    known = None
                if known is None:  # else it was cut again since
                    self._want(event.load_id)
            case FromSplitter():
                self._take_split(event)

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

    def _drop_file(self, task_id: int) -> None:
        """A file whose bytes are wrong: whoever asks for it next has it cut again."""
        for item in verbs.look(self._ledger, [task_id]):
            if item.load_id is not None and item.first_line is not None:
                self._store.delete(item.load_id, item.first_line)

    def _take_split(self, item: FromSplitter) -> None:
        load_id, event = item.split.load_id, item.event
        if isinstance(event, WideWindow):
            self._splitters.note(load_id, event)
            return
        if not isinstance(event, SplitFailed):
            self._source_waits.pop(load_id, None)
        if item.again:
            self._take_recut(item)
        elif isinstance(event, ChunkCut):
            self._store.add(load_id, event.manifest)
            with self._ledger.transaction():
                if event.manifest.oversized:
                    chunks.enqueue_oversized(
                        self._ledger, self._epoch, load_id, item.split.run_id, event.manifest, event.raw, self._host, self._broker_uuid
                    )
                else:
                    verbs.enqueue(self._ledger, self._epoch, load_id, event.manifest)
        elif isinstance(event, SplitEnded):
            state = SplitState.COMPLETE if event.damaged_at is None else SplitState.DAMAGED
            message = None if event.damaged_at is None else event.message.removeprefix(f"{item.split.path}: ")  # readers name the path
            if event.notice:
                runs.add_notice(self._ledger, load_id, event.notice)
            runs.split_ended(
                self._ledger, self._epoch, load_id, state, message=message, damaged_at_bytes=event.damaged_at, n_chunks=event.n_chunks
            )
            self._swept_at = 0.0
        elif self._is_tried_again(item, event):
            pass
        else:
            state = SplitState.CHANGED if event.kind == "changed" else SplitState.FAILED
            message = event.message.removeprefix(f"{item.split.path}: ") if item.split.replay_of is None else LOST
            runs.split_ended(self._ledger, self._epoch, load_id, state, message=message)
            self._swept_at = 0.0
        self._splitters.note(load_id, event)

    def _take_recut(self, item: FromSplitter) -> None:
        load_id, event = item.split.load_id, item.event
        if isinstance(event, ChunkCut):
            self._store.add(load_id, event.manifest)
            chunks.restored(self._ledger, self._epoch, load_id, event.manifest)
            self._wanted.get(load_id, {}).pop(event.manifest.first_line, None)
        elif isinstance(event, SplitFailed) and not self._is_tried_again(item, event):
            if item.split.replay_of is None:
                runs.pause_run(self._ledger, item.split.run_id, event.message)
            else:  # nobody can bring back a file of ours: the run ends without what is left of it, and another replay takes that
                with self._ledger.transaction():
                    runs.split_ended(self._ledger, self._epoch, load_id, SplitState.FAILED, message=LOST)
                    replays.retire(self._ledger, load_id)
            self._wanted.pop(load_id, None)
        self._splitters.note(load_id, event)

    def _is_tried_again(self, item: FromSplitter, event: SplitFailed) -> bool:
        """Note a source that cannot be read; False: trying again cannot help."""
        load_id, now = item.split.load_id, time.time()
        before = self._source_waits.pop(load_id, SourceWait(item.split.run_id, now, 0, ""))
        n_tries = before.n_tries + 1
        if event.kind != "unavailable" and (event.kind != "refused" or n_tries >= REFUSED_TRIES or item.split.replay_of is not None):
            return False
        logger.warning("split.unavailable", extra={"load_id": load_id, "error": event.message})
        self._source_waits[load_id] = SourceWait(item.split.run_id, before.since_at, n_tries, event.message)
        self._split_after[load_id] = time.monotonic() + min(SPLIT_RETRY_S, 2.0 ** min(n_tries - 1, 10))
        return True

    def _want(self, load_id: int) -> None:
        """Have every chunk of the load that may still run and has no file cut again, in one pass."""
        self._wanted[load_id] = {
            item.manifest.first_line: item
            for item in chunks.stored(self._ledger, load_id)
            if item.state is not TaskState.DEAD and self._store.manifest_of(load_id, item.manifest.first_line) is None
        }

    # --- the parts of a round ---------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        """Take back attempts whose process is known to be gone, and those whose lease ran out; end what they still hold.

        Guarantee: what is known to be gone is known until it was taken back or is over: an outage, or a row that is locked at this
        instant, makes no task wait out its lease and be charged a loss.
        """
        gone = dict(self._gone)
        taken: list[int] = []
        may_expire = now >= self._expire_from
        with self._ledger.transaction():
            for item in verbs.expire(self._ledger, self._epoch, list(gone)):
                seen = Seen(item.lease.task_id, item.lease.attempt_no)
                if not item.known_gone and not may_expire:
                    continue
                if not item.known_gone:
                    cost, outcome, told = Cost.LOSS, Outcome.EXPIRED, f"its lease of {self.settings.lease_s:g} s ran out"
                elif gone[seen]:
                    cost, outcome, told = Cost.CRASH, Outcome.CRASHED, "the worker process died"
                else:
                    cost, outcome, told = Cost.LOSS, Outcome.CRASHED, "the worker's host or nanny was lost"
                failed = Failed(cost, "WorkerDied", told)
                end_without_effect(self._ledger, item.lease, failed, outcome, item.spent, self.settings.retry_policy)
                logger.warning("task.expire", extra={"task_id": seen.task_id, "attempt_no": seen.attempt_no, "reason": told})
                taken.append(seen.task_id)
        for seen in gone:
            if verbs.worker_of(self._ledger, seen) is None:  # taken back just now, or it ended otherwise
                del self._gone[seen]
        stuck = verbs.stuck(self._ledger, self.settings.complete_grace_s) if may_expire else []
        for seen in stuck:
            logger.warning("task.stuck", extra={"task_id": seen.task_id, "attempt_no": seen.attempt_no})
        if taken or stuck:
            verbs.terminate(self._ledger, [*taken, *(seen.task_id for seen in stuck)])
        for task_id in taken:
            self._dispatched.pop(task_id, None)  # a frozen worker's key frees its slot in the window

    def _settle_files(self) -> None:
        """Delete, park or unpark the files of tasks to which something happened."""
        if not self._look:
            return
        for item in verbs.look(self._ledger, list(self._look)):
            if item.load_id is None or item.first_line is None:
                continue
            key = (item.load_id, item.first_line)
            if item.state in (TaskState.SUCCEEDED, TaskState.CANCELLED):
                self._store.delete(*key)
            elif item.state is TaskState.DEAD or (item.state is TaskState.READY and not item.is_due):
                self._store.park(*key)
            else:
                self._store.unpark(*key)
        self._look.clear()

    def _put_aside(self) -> None:
        """Free the quota for the runs that go on: park what waits for a paused run, delete what a cancelled one left.

        The ledger is asked which those are: workers pause runs, and people cancel them, on connections of their own.
        """
        loads = self._store.loads()
        for load_id, state in runs.idle_loads(self._ledger, list(loads)).items() if loads else ():
            if state is RunState.CANCELLED:
                self._store.delete_load(load_id)
                continue
            for item in chunks.stored(self._ledger, load_id) if loads[load_id] else ():
                if item.is_waiting and item.task_id not in self._dispatched:
                    self._store.park(load_id, item.manifest.first_line)

    def _split(self) -> None:
        """Keep splitters at work: chunks that are missing first, then sources that are still to be cut."""
        now = time.monotonic()
        for load_id, missing in list(self._wanted.items()):
            if not missing:
                del self._wanted[load_id]
            elif self._may_cut(load_id, now):
                split, state = runs.split_of(self._ledger, load_id)
                if state is RunState.RUNNING:
                    self._splitters.start(split, tuple(item.manifest for item in missing.values()))
        pending = runs.pending_splits(self._ledger) if self._splitters.has_room or self._splitters.loads else []
        waiting_loads = {split.load_id for split in pending} | set(self._wanted)
        for load_id in set(self._source_waits) - waiting_loads if self._splitters.has_room else ():
            del self._source_waits[load_id]  # its run was cancelled or paused
        for load_id in set(self._splitters.loads) - {split.load_id for split in pending}:
            self._splitters.stop(load_id)  # its run was cancelled or paused
        for split in pending:
            if self._splitters.has_room and self._may_cut(split.load_id, now):
                runs.split_started(self._ledger, split.load_id)
                self._splitters.start(split)
        self._splitters.grant()

    def _may_cut(self, load_id: int, now: float) -> bool:
        return not self._splitters.is_cutting(load_id) and now >= self._split_after.get(load_id, 0.0)

    def _dispatch(self) -> None:
        """Fill the window: enough tasks with Dask to keep fast hosts busy, and no more."""
        try:
            now = time.monotonic()
            if now - self._threads_at > THREADS_S:
                self._n_threads, self._threads_at = self._dask.n_threads(), now
            if now < self._hold_until:
                return
            room = dispatch_window(self._n_threads, self.settings.window_per_thread) - len(self._dispatched)
            if self._n_threads == 0 or room <= 0:
                return
            tasks = self._pick(room)
            items = [Dispatch(task.seen.task_id, task.seen.attempt_no, task.handler) for task in tasks]
            if items:
                self._dask.dispatch(items)
                self._dispatched.update((item.task_id, item) for item in items)
                for task in tasks:
                    if task.load_id is not None and task.first_line is not None:
                        self._store.unpark(task.load_id, task.first_line)  # back from backoff or a pause: it counts again
            if not self._refusals and not self._outages:
                self.waiting_for = None
        except (OSError, TimeoutError) as exc:
            if self.waiting_for is None:
                self.waiting_for, self.waiting_since_at = f"the Dask scheduler does not answer: {exc}", time.time()
            logger.warning("scheduler.lost", extra={"error": str(exc)})

    def _pick(self, n: int) -> list[verbs.Ready]:
        """Up to n ready tasks whose files are there; the others' are cut again first."""
        without_file = [item.task_id for missing in self._wanted.values() for item in missing.values()]
        ready = verbs.pick_ready(self._ledger, [*self._dispatched, *without_file], n)
        there, missing = [], set()
        for task in ready:
            if task.load_id is None or task.first_line is None or self._store.manifest_of(task.load_id, task.first_line) is not None:
                there.append(task)
            else:
                missing.add(task.load_id)
        for load_id in missing:
            self._want(load_id)
        return there

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
        runs.finish_loads(self._ledger)
        for item in runs.open_runs(self._ledger):
            if item.n_live_loads:
                continue
            committed = runs.count_lines(self._ledger, item.run_id)
            reasons = list(item.messages)
            if committed.dead:
                reasons.append(f"{committed.dead} chunks are dead: protheon dlq list {item.run_id}")
            if item.limit.is_crossed(committed.rejected, committed.lines, at_end=True):
                reasons.append(f"over the reject limit of {item.limit}: {committed.rejected:,} of {committed.lines:,} lines are rejected")
            if item.n_unfinished and not reasons:
                reasons.append(f"{item.n_unfinished} files are not finished")
            problems = self._finisher.problems_nowait(item.run_id)
            if problems is None:
                continue
            reasons += problems
            state = RunState.INCOMPLETE if reasons else RunState.SUCCEEDED
            self._write_sent()
            runs.end_run(self._ledger, item.run_id, state, "; ".join(reasons) or None)
            if committed.own_lines:
                self._finisher.analyze(item.run_id)
            logger.info("run.end", extra={"run_id": item.run_id, "state": str(state)})
