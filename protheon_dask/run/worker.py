"""One worker process: claims attempts, runs their handlers, and tells the ledger how they ended."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import UUID, uuid4

from protheon_dask import failpoints
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import (
    ChecksumMismatch,
    ConfigError,
    InvariantError,
    LeaseLost,
    LedgerUnavailable,
    MissingSetting,
    ProtheonError,
    SchemaViolation,
    TargetAltered,
)
from protheon_dask.ledger import runs, transaction, verbs
from protheon_dask.ledger.connect import Connection, connect, opened, place_of, translated
from protheon_dask.ledger.lent import LentConnection, open_lent
from protheon_dask.model import INGEST, Cost, Dispatch, Failed, Lease, Loaded, Outcome, Seen, StageClock, Worker
from protheon_dask.pipelines.pack import PackedPipeline, unpack
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.postgres import is_outage
from protheon_dask.run import completing, function, ingest
from protheon_dask.run.doing import Doing
from protheon_dask.run.enrolling import enrol
from protheon_dask.run.failure import end_without_effect, failure_of, is_misfit, tell_dead
from protheon_dask.run.keeper import Attempt, LeaseKeeper
from protheon_dask.run.machine import this_machine
from protheon_dask.run.tasks import CORRUPT, FAILED, LEASE_LOST, MISFIT, NOT_CLAIMED, OUTAGE, REFUSED, RELEASED, SUCCEEDED
from protheon_dask.run.trust.identity import HOST_VARIABLE, own_name
from protheon_dask.sink.catalog import Target, describe
from protheon_dask.sink.checksum import Comparable, compared_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

OUTAGE_POLL_S = 1.0
"""Pause between tries to tell the ledger how an attempt ended, while PostgreSQL is away."""
CLAIM_WAIT_S = 5.0
"""How long a dispatch waits for PostgreSQL before it is given back unclaimed."""
NO_COST_PAUSE_S = 0.5
"""First pause after an ending without cost; doubles with each attempt up to 60 s, so that both sides of a deadlock part."""
STALL_EXIT = 75
"""Exit code of a process that ends itself because its work is stuck; its nanny starts a new one."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run's pipeline and its tables as this process found them."""

    pipeline: Pipeline
    targets: tuple[Target, ...]
    compared: Mapping[str, Comparable]  # what is summed of the rows, by table; empty: no checksums were asked for


class WorkerProcess:
    """The one of a process. run() is called by Dask's task thread; data and lease connections are kept between attempts."""

    def __init__(self, settings: Settings, *, name: str, broker: BrokerClient, url: str, key: bytes | None, host: str = "") -> None:
        """host: under which this machine is set aside and told of; empty: what it calls itself."""
        self.settings, self.broker, self._url, self._key = settings, broker, url, key
        self._place = place_of(url)
        self.worker = Worker(uuid4(), name, host or own_name(settings))
        self._keeper = LeaseKeeper(
            url, lease_s=settings.lease_s, renew_s=settings.renew_s, stall_s=settings.stall_s, on_stall=self._end_stalled
        )
        self._conn: Connection | None = None
        self._prepared: dict[int, Prepared] = {}
        self.doing = Doing(time.perf_counter, this_machine().whole_cores)
        self._told_late: tuple[Lease, StageClock] | None = None  # what the last completion took, told with the next claim

    def run(self, dispatch: Dispatch) -> str:
        """Claim the task, do its work, tell the ledger. Returns a word for Dask; the ledger is the truth.

        Guarantee: raises only where the process itself is at fault; an attempt that was opened is ended, or left to its lease.
        """
        token, clock = uuid4(), StageClock()
        started_s = clock.enter("ledger", time.perf_counter())
        try:
            claimed = self._patiently(lambda: self._claim(dispatch, token), CLAIM_WAIT_S)
        except LedgerUnavailable as exc:
            return f"{OUTAGE}{exc}"
        except ProtheonError as exc:  # PostgreSQL refuses us: a password, a right; nothing was claimed
            self._drop_connection()
            return f"{REFUSED}{exc}"
        if claimed is None:
            return NOT_CLAIMED
        clock.add("ledger", time.perf_counter() - started_s)
        try:
            with self.doing.at_work(claimed.lease.task_id, claimed.run_id, clock, started_s):
                return self._attempt(claimed, clock)
        finally:
            gc.collect()  # see quiet_collector; takes milliseconds, since nothing of before is looked at

    def _attempt(self, claimed: verbs.Claimed, clock: StageClock) -> str:
        with self._keeper.held(claimed.lease, claimed.visibility_s) as attempt:
            try:
                self._work(claimed, attempt, clock)
                return SUCCEEDED
            except LeaseLost as exc:
                self._drop_connection()
                return self._lost(claimed.lease, exc, at="load")
            except Exception as exc:  # noqa: BLE001  # the one place: whatever ended the attempt becomes a value in the ledger
                failed = replace(failure_of(exc, self._place), seconds=clock.seconds)
                if failed.pause is not None or isinstance(exc, TargetAltered):
                    self._prepared = {}  # somebody alters the tables: they are described anew
                logger.warning(
                    "attempt.failed",
                    extra={"task_id": claimed.lease.task_id, "attempt_no": claimed.lease.attempt_no, "error": failed.message},
                )
                clock.enter("ledger", time.perf_counter())
                word = self._end(claimed, failed, attempt)
                return MISFIT if word == FAILED and is_misfit(exc) else word

    def hurry(self) -> None:
        """The process ends: renew the leases once more, so that what was taken from it while it slept is given back."""
        self._keeper.hurry()

    def close(self) -> None:
        """Hang up, everywhere; of a process that goes on without it. Between attempts."""
        self._drop_connection()
        self._keeper.close()
        self.broker.close()

    # --- the pieces -----------------------------------------------------------------------------------------------------

    def _claim(self, dispatch: Dispatch, token: UUID) -> verbs.Claimed | None:
        conn = self._connection()
        failpoints.hit("claim.before")
        with translated(self._url), conn.pipeline():  # one round trip, and one implicit transaction
            if self._told_late is not None:
                verbs.note_commit(conn, *self._told_late)
            seen = Seen(dispatch.task_id, dispatch.attempt_no)
            claimed = verbs.claim(conn, seen, self.worker, token, self.settings.lease_s)
        failpoints.hit("claim.after")
        self._told_late = None
        return claimed

    def _work(self, claimed: verbs.Claimed, attempt: Attempt, clock: StageClock) -> None:
        if claimed.handler == INGEST:
            self._ingest(claimed, attempt, clock)
        else:
            self._call(claimed, attempt, clock)
        self.doing.done()
        self._told_late = (claimed.lease, clock)

    def _ingest(self, claimed: verbs.Claimed, attempt: Attempt, clock: StageClock) -> None:
        if claimed.chunk is None or claimed.load_id is None or claimed.run_id is None:
            raise InvariantError(f"task {claimed.lease.task_id} has the handler {INGEST} and is no chunk of a run")
        prepared = self._prepare(claimed.run_id)
        work = ingest.ChunkWork(
            claimed=claimed,
            chunk=claimed.chunk,
            load_id=claimed.load_id,
            run_id=claimed.run_id,
            pipeline=prepared.pipeline,
            targets=prepared.targets,
            compared=prepared.compared,
            attempt=attempt,
            settings=self.settings,
            clock=clock,
        )
        with ingest.fetch(work, self.broker) as stored, self._deciding(attempt):
            conn = attempt.connection = self._connection()
            completing.complete(work, conn, self._load(work, stored, conn))

    def _call(self, claimed: verbs.Claimed, attempt: Attempt, clock: StageClock) -> None:
        """Call a task's function; its data transaction is the one that it wrote in, or one of the worker's own that only ends the task."""
        with contextlib.ExitStack() as stack:
            work = function.FunctionCall(claimed, attempt, clock, self.settings.renew_s, lambda: self._lend(attempt, clock, stack))
            with self._deciding(attempt):
                returned, lent = work.call()
                conn: Connection
                if lent is not None:
                    conn = lent
                else:
                    conn = attempt.connection = self._connection()
                    self._begin(conn, attempt, clock)
                completing.complete(work, conn, returned)

    def _lend(self, attempt: Attempt, clock: StageClock, stack: contextlib.ExitStack) -> LentConnection:
        """A connection with the data transaction for a function: one of its own, which takes what it did to the session with it."""
        with translated(self._url):
            conn = attempt.connection = stack.enter_context(contextlib.closing(open_lent(self._url)))
            self._begin(conn, attempt, clock)
            clock.enter("transform", time.perf_counter())  # it is the function's time again
            conn.lend()
        return conn

    @contextlib.contextmanager
    def _deciding(self, attempt: Attempt) -> Iterator[None]:
        """The data transaction ends in this block, on the attempt's connection from when it has one. A lost COMMIT is resolved."""
        try:
            yield
        except transaction.CommitUnanswered:
            self._drop_connection()
            self._resolve(attempt)
        except BaseException:
            if attempt.connection is not None:
                transaction.rollback(attempt.connection)
            attempt.check()  # a severed connection is a lost lease, not an outage
            raise
        finally:
            attempt.connection = None

    def _load(self, work: ingest.ChunkWork, stored: BinaryIO, conn: Connection) -> Loaded:
        """Load the chunk in an open transaction; once more, batch by batch, if the last merge refused a row of no known line."""
        self._begin(conn, work.attempt, work.clock)
        try:
            return ingest.load(work, stored, conn)
        except SchemaViolation:
            transaction.rollback(conn)
        self._begin(conn, work.attempt, work.clock)
        return ingest.load(work, stored, conn, merge_each_batch=True)

    def _begin(self, conn: Connection, attempt: Attempt, clock: StageClock) -> None:
        settings = self.settings
        timeouts = transaction.Timeouts(settings.advisory_wait_s, settings.lease_s, self._stall_s(attempt) + settings.lease_s)
        failpoints.hit("begin.before")
        started_s = clock.enter("ledger", time.perf_counter())
        with attempt.in_flight():
            transaction.begin(conn, attempt.lease, timeouts)
        clock.add("ledger", time.perf_counter() - started_s)
        failpoints.hit("begin.after")

    def _resolve(self, attempt: Attempt) -> None:
        """Find out what became of an unanswered COMMIT; raise unless the rows are there."""
        lease = attempt.lease
        resolved = self._patiently(lambda: transaction.resolve_commit(self._url, lease), None, attempt)
        logger.warning(
            "commit.resolved",
            extra={
                "task_id": lease.task_id,
                "attempt_no": lease.attempt_no,
                "committed": resolved.committed,
                "still_ours": resolved.still_ours,
            },
        )
        if resolved.committed:
            return
        if not resolved.still_ours:
            raise LeaseLost(lease.task_id, lease.attempt_no)
        raise LedgerUnavailable("the connection to PostgreSQL broke in COMMIT, which did not happen")

    def _prepare(self, run_id: int) -> Prepared:
        """The run's pipeline and tables, read once a process. What fails here fails the attempt, not the process."""
        if run_id not in self._prepared:
            conn = self._connection()
            with translated():
                packed = PackedPipeline(**runs.pipeline_of(conn, run_id))
            pipeline = unpack(packed, self._key)
            with conn.transaction():
                targets = describe(conn, pipeline.tables, values_are_exact=pipeline.values_are_exact)
                compared = compared_of(conn, targets) if runs.keeps_checksums(conn, run_id) else {}
            self._prepared = {run_id: Prepared(pipeline, targets, compared)}
        return self._prepared[run_id]

    def _end(self, claimed: verbs.Claimed, failed: Failed, attempt: Attempt) -> str:
        """Give the task back, or up, however long PostgreSQL is away; nobody is charged for that."""
        try:
            return self._patiently(lambda: self._end_once(claimed, failed), None, attempt, is_refusal_borne=True)
        except LeaseLost as exc:
            return self._lost(claimed.lease, exc, at="end")

    def _lost(self, lease: Lease, exc: LeaseLost, *, at: str) -> str:
        """The attempt is somebody else's by now. This process lives: what the loss cost the task is given back."""
        logger.warning("fence.refused", extra={"task_id": exc.task_id, "attempt_no": exc.attempt_no, "at": at})
        self._keeper.give_back_nowait(lease)
        return LEASE_LOST

    def _end_once(self, claimed: verbs.Claimed, failed: Failed) -> str:
        conn, lease = self._connection(), claimed.lease
        with translated(), conn.transaction():
            outcome, least_delay_s = Outcome.FAILED, 0.0
            if failed.cost is Cost.NOTHING:
                outcome = Outcome.RELEASED
                if failed.pause is None or claimed.run_id is None:  # without a run there is none to pause
                    least_delay_s = min(60.0, NO_COST_PAUSE_S * 2.0 ** min(lease.attempt_no - 1, 10)) * (0.5 + random.random())
            spent, policy = verbs.spent(conn, lease.task_id), self.settings.retry_policy
            if claimed.max_failures is not None:
                policy = policy.dead_at(Cost.FAILURE, claimed.max_failures)
            dead = end_without_effect(conn, lease, failed, outcome, spent, policy, least_delay_s=least_delay_s)
            is_paused = False
            if failed.pause is not None and claimed.run_id is not None:
                is_paused = runs.pause_run(conn, claimed.run_id, failed.pause, by=lease)
        tell_dead(lease, dead)
        if is_paused:
            logger.warning("run.pause", extra={"run_id": claimed.run_id, "reason": failed.pause})
        if failed.cost is not Cost.NOTHING:
            return FAILED
        if failed.error_class == ChecksumMismatch.__name__:
            return CORRUPT
        if failed.error_class == LedgerUnavailable.__name__ and is_outage(failed.sqlstate):
            return f"{OUTAGE}{failed.message}"
        return RELEASED

    def _patiently(
        self, action: Callable[[], T], wait_s: float | None, attempt: Attempt | None = None, *, is_refusal_borne: bool = False
    ) -> T:
        """Do it as soon as PostgreSQL answers, within wait_s (None: for ever). Raises LedgerUnavailable after that.

        attempt:          whose work this is: each try is progress of it, for it waits for PostgreSQL and does not stall.
        is_refusal_borne: what PostgreSQL refuses, after it took the claim, is waited for too: a standby, a right that was withdrawn.
        """
        end_at = None if wait_s is None else time.monotonic() + wait_s
        while True:
            try:
                with attempt.in_flight() if attempt is not None else contextlib.nullcontext():
                    return action()
            except (LedgerUnavailable, ConfigError) as exc:
                self._drop_connection()
                if isinstance(exc, ConfigError) and not is_refusal_borne:
                    raise
                if end_at is not None and time.monotonic() > end_at:
                    raise
                time.sleep(OUTAGE_POLL_S)

    def _connection(self) -> Connection:
        """The data connection, opened anew where it broke. Between attempts it is in no transaction."""
        if self._conn is None or self._conn.closed or self._conn.broken:
            self._drop_connection()
            self._conn = connect(self._url, application="protheon-worker")
        return self._conn

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def _stall_s(self, attempt: Attempt) -> float:
        return self.settings.stall_s if attempt.stall_s is None else attempt.stall_s

    def _end_stalled(self, attempt: Attempt) -> None:
        """Called by the keeper: the attempt is charged with a crash, and the process, whose thread cannot be ended, ends."""
        seconds = f"{self._stall_s(attempt):g}"
        failed = Failed(Cost.CRASH, "Stalled", f"no byte, row or statement for {seconds} s; the worker process was ended")
        logger.error("attempt.stalled", extra={"task_id": attempt.lease.task_id, "attempt_no": attempt.lease.attempt_no})
        try:
            with opened(self._url, application="protheon-worker") as conn, conn.transaction():
                spent = verbs.spent(conn, attempt.lease.task_id)
                dead = end_without_effect(conn, attempt.lease, failed, Outcome.CRASHED, spent, self.settings.retry_policy)
            tell_dead(attempt.lease, dead)
        except LeaseLost:  # it was expired before: that this process lives is to be known before it ends
            self._keeper.give_back(attempt.lease)
        except ProtheonError:
            logger.exception("attempt.stalled_unsaid")  # its lease will run out
        os._exit(STALL_EXIT)

    def give_unfinished(self) -> None:
        """Break off what is not finished, through no fault of that, and give it back at no cost. Not for the thread that does it.

        The process is about to end: its scheduler ended, or it was told to.
        """
        failed = Failed(Cost.NOTHING, "WorkerClosed", "its worker process had to end: the Dask scheduler ended, or the worker was told to")
        for attempt in self._keeper.attempts():
            attempt.lose()  # its transaction is broken off
            lease = attempt.lease
            logger.warning("attempt.unfinished", extra={"task_id": lease.task_id, "attempt_no": lease.attempt_no})
            try:
                with opened(self._url, application="protheon-worker") as conn, conn.transaction():
                    verbs.release(conn, lease, failed, Outcome.RELEASED, 0.0)
            except LeaseLost:  # it committed at this moment, or was expired
                continue
            except ProtheonError:
                logger.exception("attempt.unfinished_unsaid")  # its lease will run out

    def end_unfinished(self) -> None:
        """As give_unfinished; then end the process. Called on a thread of its own, some time after Dask began to close the worker."""
        self.give_unfinished()
        os._exit(STALL_EXIT)


_current: WorkerProcess | None = None


def quiet_collector() -> None:
    """Let the garbage collector look seldom: rows are tuples without cycles, and looking at them costs a quarter of decoding.

    What was made by now is never looked at again; each attempt ends with a collection of its own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def start_process(settings: Settings, env: Mapping[str, str], name: str) -> WorkerProcess:
    """Make this process's worker. Called by the preload, once. Raises as made()."""
    global _current
    quiet_collector()
    _current = made(settings, env, name)
    return _current


def made(settings: Settings, env: Mapping[str, str], name: str, key: bytes | None = None) -> WorkerProcess:
    """A worker of this process; key: of the cluster, where the environment names none.

    What the environment does not say, the database's URL and the cluster's key, the master is asked for (enrolling.enrol).
    Raises: MissingSetting: PROTHEON_BROKER is not there, or nobody says which database. What enrol() raises.
    """
    from protheon_dask.run.trust.keys import read_key

    if not (address := env.get("PROTHEON_BROKER")):
        raise MissingSetting(
            "PROTHEON_BROKER is not set: give it the master's gRPC address (host:port), in the environment of `dask worker`"
        )
    broker = BrokerClient(address, TlsFiles(Path(settings.tls_dir).expanduser()) if settings.tls_dir else None)
    key_file, host = env.get("PROTHEON_KEY_FILE"), env.get(HOST_VARIABLE, "")
    with contextlib.ExitStack() as failed:
        failed.callback(broker.close)
        key = key or (read_key(key_file) if key_file else None)
        if not settings.database_url:
            enrolled = enrol(settings, broker, host or own_name(settings))
            settings, key = enrolled.settings, key or enrolled.key
        failed.pop_all()
    return WorkerProcess(settings, name=name, broker=broker, url=settings.database_url, key=key, host=host)


@dataclass(frozen=True, slots=True)
class _Guest:
    """How to make a worker in a process of somebody else's Dask. Told again by each broker and to each new connection, often the same."""

    settings: Settings
    env: Mapping[str, str] = field(repr=False)
    name: str
    key: bytes | None = field(repr=False)


_guest: _Guest | None = None
_guests: dict[threading.Thread, tuple[_Guest, WorkerProcess]] = {}  # for each of Dask's task threads its own: WorkerProcess is for one
_guests_lock = threading.Lock()


def accept_guest(settings: Settings, env: Mapping[str, str], name: str, key: bytes | None) -> None:
    """Let this process, which was started without our preload, run attempts: a worker is made in each thread that gets one."""
    global _guest
    _guest = _Guest(settings, env, name, key)


def current_process() -> WorkerProcess:
    """The worker of this process, or, of a guest, of this thread.

    A guest that is told other terms keeps the worker of each thread, with its connections, until that thread has its next task,
    or ends: it may be at work. So there are never more of them than Dask has task threads.

    Raises: InvariantError: neither preload nor plugin came before. What made() raises, each time anew.
    """
    if _current is not None:
        return _current
    if _guest is None:
        raise InvariantError("this Dask worker was started without --preload protheon_dask.run.preload_worker")
    guest, me = _guest, threading.current_thread()
    with _guests_lock:
        over = [thread for thread, (terms, _) in _guests.items() if not thread.is_alive() or (thread is me and terms != guest)]
        left = [_guests.pop(thread)[1] for thread in over]
        found = _guests.get(me)
    for each in left:
        each.close()
    if found is not None:
        return found[1]
    process = made(guest.settings, guest.env, f"{guest.name}-{threading.get_native_id()}", guest.key)
    with _guests_lock:
        _guests[me] = guest, process
    return process


@contextlib.contextmanager
def borrowed_process() -> Iterator[WorkerProcess]:
    """The worker of this process, to ask it, not to work; of a guest one for the block: not each thread that asks is to keep its own.

    Raises as current_process().
    """
    if _current is not None or _guest is None:
        yield current_process()
        return
    with contextlib.closing(made(_guest.settings, _guest.env, _guest.name, _guest.key)) as process:
        yield process
