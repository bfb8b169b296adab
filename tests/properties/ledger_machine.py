"""The verbs of a task on a real PostgreSQL, driven from several connections against the model of tests/properties/ledger_model.py.

Three workers, each with a connection of its own for claims and endings, and one more for each data transaction that is held open; two
brokers that take the lead from one another; a person who submits, pauses, resumes and cancels. Time is the test's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protheon_dask.errors import LeadershipLost, LeaseLost
from protheon_dask.ledger import hosts, leadership, runs, tasks, transaction, verbs
from protheon_dask.ledger.rows import rows
from protheon_dask.model import (
    ChunkManifest,
    Cost,
    Failed,
    Identity,
    Joined,
    Lease,
    Lines,
    Loaded,
    Outcome,
    Seen,
    StageClock,
    TaskState,
    Worker,
)
from tests.properties.ledger_model import COUNTED, Ledger, Load, Task

T = TypeVar("T")

LEASE_S = 60.0
GRACE_S = 30.0
N_LINES = 10
MAX_TASKS = 5
MAX_RUNS = 6
BUSY_S = 0.02
"""How long a second data transaction of a task waits for the first one, which never ends meanwhile."""
PATIENCE_S = 20.0
"""For what happens within milliseconds: a statement that meets a lock, a backend that ends."""
PIPELINE = dict.fromkeys(("name", "version", "reference", "tables", "versions", "options"), "p") | dict.fromkeys(
    ("object", "signature", "code_hash"), b"p"
)
PICK = st.integers(0, 7)
"""Which of what there is: the newest first, since the newest are mostly what is alive."""
YES = st.booleans()
RARELY = st.sampled_from([False, False, False, True])
ENDINGS = st.sampled_from(
    [(Outcome.FAILED, Cost.FAILURE), (Outcome.CRASHED, Cost.CRASH), (Outcome.EXPIRED, Cost.LOSS), (Outcome.RELEASED, Cost.NOTHING)]
)
TIMEOUTS = transaction.Timeouts(advisory_wait_s=BUSY_S, lock_s=2.0, idle_s=600.0)


def manifest(chunk_no: int) -> ChunkManifest:
    return ChunkManifest(
        chunk_no, (chunk_no - 1) * N_LINES + 1, N_LINES, (chunk_no - 1) * 100, 100, b"r" * 16, 50, b"s" * 16, generation=1
    )  # fmt: skip


@dataclass
class Held:
    """An open data transaction."""

    conn: psycopg.Connection
    lease: Lease
    is_completed: bool = False


@dataclass
class Stage:
    """A database with an empty ledger, and connections that examples share."""

    url: str
    conns: dict[str, psycopg.Connection] = field(default_factory=dict)
    idle: list[psycopg.Connection] = field(default_factory=list)
    taken: list[psycopg.Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conn("monitor").execute("CREATE TABLE IF NOT EXISTS public.loaded (task_id bigint, attempt_no integer)")

    def conn(self, name: str) -> psycopg.Connection:
        if name not in self.conns or self.conns[name].closed:
            self.conns[name] = self.open()
        return self.conns[name]

    def open(self) -> psycopg.Connection:
        conn = psycopg.connect(self.url, autocommit=True, prepare_threshold=None)  # as the product connects
        conn.execute("SELECT set_config('lock_timeout', '2s', false)")  # nothing waits but in a race, which is over in milliseconds
        return conn

    def take(self) -> psycopg.Connection:
        """A connection for a data transaction."""
        self.taken.append(self.idle.pop() if self.idle else self.open())
        return self.taken[-1]

    def give(self, conn: psycopg.Connection) -> None:
        self.taken.remove(conn)
        transaction.rollback(conn)
        if not conn.closed:
            self.idle.append(conn)

    def wipe(self) -> None:
        """For the next example, wherever the last one broke off."""
        for conn in self.taken:
            conn.close()
        self.taken.clear()
        self.conn("monitor").execute("TRUNCATE protheon.run, protheon.source, protheon.load, protheon.task, public.loaded CASCADE")

    def close(self) -> None:
        for conn in [*self.conns.values(), *self.idle, *self.taken]:
            conn.close()

    def wait_for(self, query: str, *params: object) -> None:
        end_at = time.monotonic() + PATIENCE_S
        while self.conn("monitor").execute(query, params).fetchone() != (True,):
            assert time.monotonic() < end_at, f"never came: {query} {params}"


class Meanwhile:
    """A statement in a thread of its own, begun now; it waits for a lock that somebody holds, or is through."""

    def __init__(self, stage: Stage, conn: psycopg.Connection, action: Callable[[], object]) -> None:
        self._answer: list[object] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._thread.start()
        while self._thread.is_alive() and not self._is_waiting(stage, conn.info.backend_pid):
            time.sleep(0.0005)

    @staticmethod
    def _is_waiting(stage: Stage, pid: int) -> bool:
        row = stage.conn("monitor").execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (pid,)).fetchone()
        return row == (True,)

    def _run(self, action: Callable[[], object]) -> None:
        try:
            self._answer.append(action())
        except BaseException as exc:  # noqa: BLE001  # handed to the test's own thread, which raises it
            self._error.append(exc)

    def answer(self) -> Any:
        """What it returned, or raise what it raised, once the lock is free."""
        self._thread.join(PATIENCE_S)
        if self._error:
            raise self._error[0]
        [answer] = self._answer
        return answer


def holds(action: Callable[[], object]) -> bool:
    """Was the write taken? False: it was refused with LeaseLost."""
    try:
        action()
    except LeaseLost:
        return False
    return True


class LedgerMachine(RuleBasedStateMachine):
    """One example: verbs in any order, the ledger held against the model after each."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        stage.wipe()
        self.leader = "broker 0"
        for name in ("broker 0", "broker 1"):
            stage.conn(name).execute("SELECT pg_advisory_unlock_all()")
        self.epochs = {"broker 1": self._lead("broker 1"), "broker 0": 0}
        stage.conn("broker 1").execute("SELECT pg_advisory_unlock_all()")
        self.epochs["broker 0"] = self._lead("broker 0")
        self.model = Ledger(datetime.now(UTC) + timedelta(hours=1), self.epochs["broker 0"])  # past any time that the database itself takes
        self.leases: list[tuple[Seen, UUID, Lease]] = []  # with what was asked for them
        self.held: list[Held] = []
        self.finished: dict[int, object] = {}  # rows of succeeded tasks as they first were
        self.process = uuid4()

    def _lead(self, name: str) -> int:
        lead = leadership.take(self.stage.conn(name), uuid4())
        assert lead is not None
        return lead.epoch

    def teardown(self) -> None:
        for held in self.held:
            self.stage.give(held.conn)

    # --- what rules draw from -----------------------------------------------------------------------------------------------

    @property
    def locked(self) -> set[int]:
        """Tasks whose row an open transaction has written."""
        return {held.lease.task_id for held in self.held if held.is_completed}

    def task_at(self, pick: int) -> int:
        ids = list(self.model.tasks)
        return ids[pick % len(ids)]

    def lease_at(self, pick: int) -> Lease:
        return self.leases[-1 - pick % len(self.leases)][2]

    def run_at(self, pick: int) -> int:
        ids = list(self.model.runs)
        return ids[-1 - pick % len(ids)]

    def worker(self, pick: int) -> psycopg.Connection:
        return self.stage.conn(f"worker {pick % 3}")

    def _claim(self, conn: psycopg.Connection, seen: Seen, token: UUID, now: datetime) -> Lease | None:
        claimed = verbs.claim(conn, seen, Worker(self.process, "w", "h"), token, LEASE_S, now=now)
        return None if claimed is None else claimed.lease

    def _keep(self, seen: Seen, token: UUID, got: Lease | None) -> None:
        if got is not None and (seen, token, got) not in self.leases:
            self.leases.append((seen, token, got))

    # --- the person -----------------------------------------------------------------------------------------------------------

    def _submit(self, digest: bytes) -> tuple[int, runs.JoinedLoad]:
        conn = self.stage.conn("person")
        columns: dict[str, object] = {
            "paths": ["/a"], "pipeline_name": "p", "pipeline_version": "p", "chunk_lines": None, "reject_limit_lines": None,
            "reject_limit_fraction": 0.5, "request_id": str(uuid4()), "ephemeral": False,
        }  # fmt: skip
        with conn.transaction():
            run_id = runs.create_run(conn, columns, PIPELINE)
            assert run_id is not None
            new = runs.NewLoad(run_id, "p", "p", "p", b"p", "/a", Identity(5, digest), N_LINES, False, 1 << 20, 1 << 20, 20)
            joined = runs.join_load(conn, new, again=False)
            runs.start_run(conn, run_id, joined.notices)
        return run_id, joined

    @initialize(n_chunks=st.integers(1, 2))
    def begin_with_one_run(self, n_chunks: int) -> None:
        run_id, joined = self._submit(b"0" * 16)
        assert joined.joined is Joined.NEW
        self.model.runs[run_id] = "running"
        self.model.loads[joined.load_id] = Load(run_id, {run_id})
        for chunk_no in range(1, n_chunks + 1):
            self.model.tasks[verbs.enqueue(self.stage.conn(self.leader), self.model.epoch, joined.load_id, manifest(chunk_no))] = Task(
                joined.load_id
            )

    @precondition(lambda self: len(self.model.runs) < MAX_RUNS)
    @rule()
    def the_same_file_is_submitted_again(self) -> None:
        run_id, joined = self._submit(b"0" * 16)
        owner = self.model.runs[self.model.loads[joined.load_id].owner]
        assert joined.joined is (Joined.ATTACHED if owner == "running" else Joined.RESUMED)
        self.model.join(joined.load_id, run_id)

    @rule(pick=PICK)
    def a_run_is_paused(self, pick: int) -> None:
        run_id = self.run_at(pick)
        assert runs.pause_run(self.stage.conn("person"), run_id, "because") is (self.model.runs[run_id] == "running")
        if self.model.runs[run_id] == "running":
            self.model.runs[run_id] = "paused"

    @precondition(lambda self: "paused" in self.model.runs.values())
    @rule(pick=PICK)
    def a_run_is_resumed(self, pick: int) -> None:
        run_id = self.run_at(pick)
        assert runs.resume_run(self.stage.conn("person"), run_id, None, ephemeral=False) is (self.model.runs[run_id] == "paused")
        if self.model.runs[run_id] == "paused":
            self.model.runs[run_id] = "running"

    @rule(pick=PICK)
    def a_run_is_cancelled(self, pick: int) -> None:
        run_id, conn = self.run_at(pick), self.stage.conn("person")
        was_open = self.model.runs[run_id] != "cancelled"
        with conn.transaction():
            assert runs.cancel_run(conn, run_id, "enough") is was_open
        self.model.cancel_run(run_id, self.locked)

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += timedelta(seconds=seconds)

    # --- brokers ----------------------------------------------------------------------------------------------------------------

    @rule()
    def another_broker_takes_the_lead(self) -> None:
        """The one before has lost its session, and does not know it."""
        other = "broker 1" if self.leader == "broker 0" else "broker 0"
        assert leadership.take(self.stage.conn(other), uuid4()) is None, "two lead at a time"
        self.stage.conn(self.leader).execute("SELECT pg_advisory_unlock_all()")
        self.leader = other
        self.epochs[other] = self.model.epoch = self._lead(other)

    @precondition(lambda self: len(self.model.tasks) < MAX_TASKS)
    @rule(pick=st.integers(0, 1), chunk_no=st.integers(1, 3))
    def a_chunk_is_enqueued(self, pick: int, chunk_no: int) -> None:
        """By the broker that leads, or by the one before; the same chunk again is the same task."""
        broker, [load_id] = f"broker {pick}", self.model.loads
        conn, epoch = self.stage.conn(broker), self.epochs[broker]
        try:
            task_id = verbs.enqueue(conn, epoch, load_id, manifest(chunk_no))
        except LeadershipLost:
            assert epoch != self.model.epoch
            return
        assert epoch == self.model.epoch, "who does not lead enqueued a chunk"
        before = {found for found, task in self.model.tasks.items() if task.load is not None}
        if task_id not in before:
            self.model.tasks[task_id] = Task(load_id)

    @precondition(lambda self: all(task.load is not None for task in self.model.tasks.values()))
    @rule()
    def a_task_without_a_run_is_made(self) -> None:
        """Asked for twice, made once."""
        new = tasks.NewTask("other", "1", 0, 0.0, None, None, request_id=str(uuid4()))
        made = {tasks.enqueue(self.stage.conn("person"), new) for _ in range(2)}
        [task_id] = made
        self.model.tasks[task_id] = Task(None)

    @precondition(lambda self: any(task.load is None for task in self.model.tasks.values()) and not self.locked)
    @rule(pick=PICK)
    def a_task_is_cancelled(self, pick: int) -> None:
        """A chunk cannot be: it is its run's."""
        task_id = self.task_at(pick)
        assert tasks.cancel(self.stage.conn("person"), task_id, now=self.model.now) == self.model.cancel_task(task_id)

    @rule(
        pick=st.integers(0, 1),
        gone=st.lists(st.tuples(PICK, st.integers(0, 1)), max_size=2),
        ending=ENDINGS,
        gives_up=YES,
        commits=st.sampled_from([True, True, True, False]),
    )
    def a_broker_expires(self, pick: int, gone: list[tuple[int, int]], ending: tuple[Outcome, Cost], gives_up: bool, commits: bool) -> None:
        """By the lease, and what is known to be gone; each is released or given up in the same transaction, which may not come through."""
        broker = f"broker {pick}"
        conn, outcome, cost = self.stage.conn(broker), *ending
        known = [Seen(task, self.model.tasks[task].attempt_no - before) for task, before in ((self.task_at(at), n) for at, n in gone)]
        expected = self.model.expiring(self.epochs[broker], known, self.locked)
        with conn.transaction(force_rollback=not commits):
            found = verbs.expire(conn, self.epochs[broker], known, now=self.model.now)
            assert {Seen(item.lease.task_id, item.lease.attempt_no): item.known_gone for item in found} == expected
            for item in found:
                assert item.spent == self.model.tasks[item.lease.task_id].spent
                self._end(conn, item.lease, outcome, cost, 0.0, gives_up)
        for seen in expected if commits else ():
            self._model_end(Lease(seen.task_id, seen.attempt_no, LEASE_S), outcome, cost, 0.0, gives_up)

    @precondition(lambda self: self.held)
    @rule()
    def a_broker_looks_for_what_is_stuck_and_ends_it(self) -> None:
        """Of the tasks that are held beyond the grace, the backends are ended; nothing of theirs is left."""
        conn = self.stage.conn(self.leader)
        stuck = verbs.stuck(conn, GRACE_S, now=self.model.now)
        assert set(stuck) == self.model.stuck(GRACE_S)
        doomed = [held for held in self.held if held.lease.task_id in {seen.task_id for seen in stuck}]
        assert verbs.terminate(conn, [seen.task_id for seen in stuck]) == len(doomed)
        for held in doomed:
            self._lose(held)

    def _lose(self, held: Held) -> None:
        """Its backend is ending: wait until its locks are free."""
        self.stage.wait_for("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", held.conn.info.backend_pid)
        self.held.remove(held)
        held.conn.close()
        self.stage.give(held.conn)

    @rule()
    def a_load_is_replayed(self) -> None:
        [load_id] = self.model.loads
        again = verbs.replay(self.stage.conn(self.leader), load_id, now=self.model.now)
        assert set(again) == self.model.replay(self.model.over_of_load(load_id), at=self.model.now)

    @rule(picks=st.sets(PICK, min_size=1, max_size=2), purges=YES)
    def dead_tasks_are_replayed_or_given_up(self, picks: set[int], purges: bool) -> None:
        """By their numbers; others that are named are left alone."""
        conn, chosen = self.stage.conn(self.leader), set(map(self.task_at, picks))
        if purges:
            purged = rows(conn, "purge", {"task_ids": list(chosen), "now": self.model.now})
            assert {row["task_id"] for row in purged} == self.model.purge(chosen)
        else:
            again = verbs.replay(conn, task_ids=list(chosen), now=self.model.now)
            assert set(again) == self.model.replay(self.model.dead_of(chosen), at=self.model.now)

    @precondition(lambda self: self.leases and not self.locked)
    @rule(
        picks=st.sets(PICK, min_size=1, max_size=2),
        broker=st.sampled_from([None, "broker 0", "broker 1"]),
        costs=st.sets(st.sampled_from(COUNTED), min_size=1),
    )
    def what_attempts_cost_is_given_back(self, picks: set[int], broker: str | None, costs: set[Cost]) -> None:
        """By a broker that found the fault to be the host's, or by the process itself, which lives."""
        asked = {Seen(lease.task_id, lease.attempt_no) for lease in map(self.lease_at, picks)}
        conn, epoch = self.stage.conn(broker or "worker 0"), self.epochs[broker] if broker else None
        given = hosts.give_back(conn, list(asked), list(costs), epoch=epoch, now=self.model.now)
        was_dead = {item.seen.task_id for item in given if self.model.tasks[item.seen.task_id].state is TaskState.DEAD}
        assert {item.seen for item in given} == self.model.give_back(asked, costs, epoch)
        back = {item.seen.task_id for item in given if item.is_back}
        assert back == {task_id for task_id in was_dead if self.model.tasks[task_id].state is TaskState.READY}

    @rule()
    def cancelled_runs_are_swept(self) -> None:
        swept = verbs.cancel(self.stage.conn(self.leader), now=self.model.now)
        assert set(swept) == self.model.cancel(self.locked)

    @rule()
    def the_ready_are_picked(self) -> None:
        """Retries first, then the oldest: what is picked is just what can be claimed."""
        picked = [item.seen for item in verbs.pick_ready(self.stage.conn(self.leader), [], 100, now=self.model.now)]
        can = [
            seen for seen in (Seen(task_id, task.attempt_no) for task_id, task in self.model.tasks.items()) if self.model.is_claimable(seen)
        ]
        assert picked == sorted(can, key=lambda seen: (seen.attempt_no == 0, seen.task_id))

    # --- workers ----------------------------------------------------------------------------------------------------------------

    @rule(pick=PICK, who=PICK, behind=st.sampled_from([0, 0, 0, 1, -1]))
    def a_worker_claims(self, pick: int, who: int, behind: int) -> None:
        """With the attempt_no that its dispatch saw, which may be an old one."""
        task_id, token = self.task_at(pick), uuid4()
        seen = Seen(task_id, self.model.tasks[task_id].attempt_no - behind)
        got = self._claim(self.worker(who), seen, token, self.model.now)
        attempt_no = self.model.claim(seen, token, self.process, LEASE_S)
        assert (got.attempt_no if got else None) == attempt_no
        self._keep(seen, token, got)

    @precondition(lambda self: self.leases)
    @rule(pick=PICK, who=PICK)
    def a_worker_asks_again_after_a_lost_reply(self, pick: int, who: int) -> None:
        seen, token, lease = self.leases[-1 - pick % len(self.leases)]
        got = self._claim(self.worker(who), seen, token, self.model.now)
        assert got == (lease if self.model.claim(seen, token, self.process, LEASE_S) is not None else None)

    @rule(pick=PICK, commits=YES)
    def two_workers_claim_at_once(self, pick: int, commits: bool) -> None:
        """The second one waits for the first: it gets the task if and only if the first one's transaction does not come through."""
        task_id, tokens = self.task_at(pick), (uuid4(), uuid4())
        seen = Seen(task_id, self.model.tasks[task_id].attempt_no)
        first, second = self.worker(0), self.worker(1)
        with first.transaction(force_rollback=not commits):
            got_first = self._claim(first, seen, tokens[0], self.model.now)
            meanwhile = Meanwhile(self.stage, second, lambda: self._claim(second, seen, tokens[1], self.model.now))
        got_second = meanwhile.answer()
        winner, got, lost = (tokens[0], got_first, got_second) if commits else (tokens[1], got_second, None)
        assert lost is None
        assert (got.attempt_no if got else None) == self.model.claim(seen, winner, self.process, LEASE_S)
        self._keep(seen, winner, got)

    @precondition(lambda self: self.leases)
    @rule(picks=st.lists(PICK, min_size=1, max_size=4), who=PICK)
    def a_process_renews(self, picks: list[int], who: int) -> None:
        leases = list(dict.fromkeys(map(self.lease_at, picks)))
        assert verbs.renew(self.worker(who), leases, LEASE_S, now=self.model.now) == self.model.renew(leases, self.locked, LEASE_S)

    @precondition(lambda self: self.leases)
    @rule(pick=PICK, who=PICK, ending=ENDINGS, ready_in_s=st.sampled_from([0.0, 45.0]), gives_up=RARELY)
    def an_attempt_ends_without_effect(self, pick: int, who: int, ending: tuple[Outcome, Cost], ready_in_s: float, gives_up: bool) -> None:
        lease = self.lease_at(pick)
        if not (lease.task_id in self.locked and self.model.tasks[lease.task_id].is_of(lease)):  # else it would wait: see the races
            taken = holds(lambda: self._end(self.worker(who), lease, *ending, ready_in_s, gives_up))
            assert taken == self._model_end(lease, *ending, ready_in_s, gives_up)

    def _end(self, conn: psycopg.Connection, lease: Lease, outcome: Outcome, cost: Cost, ready_in_s: float, gives_up: bool) -> None:
        failed = Failed(cost, "Error", "told")
        if gives_up:
            verbs.dead_letter(conn, lease, failed, outcome, "enough", now=self.model.now)
        else:
            verbs.release(conn, lease, failed, outcome, ready_in_s, now=self.model.now)

    def _model_end(self, lease: Lease, outcome: Outcome, cost: Cost, ready_in_s: float, gives_up: bool) -> bool:
        if gives_up:
            return self.model.dead_letter(lease, outcome, cost)
        return self.model.release(lease, outcome, cost, ready_in_s)

    # --- data transactions --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.leases and len(self.held) < 3)
    @rule(pick=PICK)
    def a_data_transaction_begins(self, pick: int) -> None:
        """It is refused to a stale attempt, and to any while another one of the same task is open."""
        lease, conn = self.lease_at(pick), self.stage.take()
        busy = any(held.lease.task_id == lease.task_id for held in self.held)
        expected = "busy" if busy else "ours" if self.model.tasks[lease.task_id].is_of(lease) else "lost"
        try:
            transaction.begin(conn, lease, TIMEOUTS)
            found = "ours"
        except LeaseLost:
            found = "lost"
        except psycopg.errors.LockNotAvailable:
            found = "busy"
        assert found == expected  # busy: two attempts of one task never have open data transactions side by side
        if found != "ours":
            self.stage.give(conn)
            return
        conn.execute("INSERT INTO public.loaded VALUES (%s, %s)", (lease.task_id, lease.attempt_no))
        self.held.append(Held(conn, lease))

    def _complete(self, held: Held) -> bool:
        lines = Lines(N_LINES, loaded=N_LINES) if self.model.tasks[held.lease.task_id].load is not None else Lines()
        return holds(lambda: verbs.complete(held.conn, held.lease, Loaded(lines, ()), StageClock(), now=self.model.now))

    @precondition(lambda self: any(not held.is_completed for held in self.held))
    @rule(pick=PICK)
    def a_data_transaction_completes(self, pick: int) -> None:
        pending = [held for held in self.held if not held.is_completed]
        held = pending[pick % len(pending)]
        is_ours = self.model.tasks[held.lease.task_id].is_of(held.lease)
        assert self._complete(held) == is_ours
        if is_ours:
            held.is_completed = True
        else:
            self.held.remove(held)
            self.stage.give(held.conn)

    @precondition(lambda self: self.held)
    @rule(pick=PICK, commits=YES, is_answered=YES)
    def a_data_transaction_ends(self, pick: int, commits: bool, is_answered: bool) -> None:
        """It commits if it has completed; where that was not answered, the ledger knows what became of it."""
        held = self.held.pop(pick % len(self.held))
        if held.is_completed and commits:
            transaction.commit(held.conn)
            self.model.complete(held.lease)
        elif not is_answered:
            held.conn.close()
        self.stage.give(held.conn)
        if not is_answered:
            resolved = transaction.resolve_commit(self.stage.url, held.lease)
            task = self.model.tasks[held.lease.task_id]
            assert resolved.committed == (task.attempts[held.lease.attempt_no - 1].outcome is Outcome.SUCCEEDED)
            assert resolved.still_ours == task.is_of(held.lease)

    @precondition(lambda self: self.locked)
    @rule(pick=PICK, commits=YES, ending=ENDINGS, gives_up=YES)
    def an_ending_meets_a_commit(self, pick: int, commits: bool, ending: tuple[Outcome, Cost], gives_up: bool) -> None:
        """A worker that stalled, it is said, while its commit is on its way: the ending waits, and is refused if it came through."""
        committing = [held for held in self.held if held.is_completed]
        held = committing[pick % len(committing)]
        conn = self.worker(pick)
        meanwhile = Meanwhile(self.stage, conn, lambda: holds(lambda: self._end(conn, held.lease, *ending, 0.0, gives_up)))
        self.held.remove(held)
        if commits:
            transaction.commit(held.conn)
            self.model.complete(held.lease)
        self.stage.give(held.conn)
        assert meanwhile.answer() == self._model_end(held.lease, *ending, 0.0, gives_up) == (not commits)

    @precondition(lambda self: any(not held.is_completed for held in self.held))
    @rule(pick=PICK, commits=YES, ending=ENDINGS, gives_up=YES)
    def a_completion_meets_an_expiry(self, pick: int, commits: bool, ending: tuple[Outcome, Cost], gives_up: bool) -> None:
        """The worker is known to be gone, and completes all the same: if the expiry comes through, nothing of it is left."""
        pending = [held for held in self.held if not held.is_completed]
        held, conn = pending[pick % len(pending)], self.stage.conn(self.leader)
        seen = Seen(held.lease.task_id, held.lease.attempt_no)
        expected = self.model.expiring(self.model.epoch, [seen], self.locked)
        with conn.transaction(force_rollback=not commits):
            found = verbs.expire(conn, self.model.epoch, [seen], now=self.model.now)
            for item in found:
                self._end(conn, item.lease, *ending, 0.0, gives_up)
            meanwhile = Meanwhile(self.stage, held.conn, lambda: self._complete(held))
        for seen in expected if commits else ():
            self._model_end(Lease(seen.task_id, seen.attempt_no, LEASE_S), *ending, 0.0, gives_up)
        is_ours = self.model.tasks[held.lease.task_id].is_of(held.lease)
        assert meanwhile.answer() == is_ours
        if is_ours:
            held.is_completed = True
        else:
            self.held.remove(held)
            self.stage.give(held.conn)

    def look(self) -> None:
        """All that holds after each step; for who takes the steps himself."""
        self.the_ledger_is_what_the_model_says()
        self.rows_and_the_ends_of_attempts_exist_together()
        self.the_ledger_agrees_with_itself()
        self.a_succeeded_task_never_changes()

    # --- what holds after each step -------------------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_is_what_the_model_says(self) -> None:
        conn = self.stage.conn("monitor")
        tasks = conn.execute(
            "SELECT id, state, attempt_no, failures, crashes, losses, lease_until_at, ready_at FROM protheon.task ORDER BY id"
        ).fetchall()
        expected = [
            (task_id, task.state, task.attempt_no, *task.spent.values(), task.lease_until) for task_id, task in self.model.tasks.items()
        ]
        assert [row[:-1] for row in tasks] == expected
        for task_id, *_, ready_at in tasks:
            if self.model.tasks[task_id].ready_at is not None:
                assert ready_at == self.model.tasks[task_id].ready_at
        attempts = conn.execute(
            "SELECT task_id, attempt_no, token, outcome, cost, given_back, ended_at IS NULL FROM protheon.attempt ORDER BY 1, 2"
        ).fetchall()
        assert attempts == [
            (task_id, attempt.no, attempt.token, attempt.outcome, attempt.cost, attempt.given_back, attempt.outcome is None)
            for task_id, task in self.model.tasks.items()
            for attempt in task.attempts
        ]
        letters = conn.execute(
            "SELECT task_id, attempt_no, replayed_at IS NOT NULL, purged_at IS NOT NULL FROM protheon.dead_letter ORDER BY 1, 2"
        ).fetchall()
        assert letters == [
            (task_id, no, letter.is_replayed, letter.is_purged)
            for task_id, task in self.model.tasks.items()
            for no, letter in sorted(task.letters.items())
        ]

    @invariant()
    def rows_and_the_ends_of_attempts_exist_together(self) -> None:
        conn = self.stage.conn("monitor")
        rows = conn.execute("SELECT task_id, attempt_no FROM public.loaded ORDER BY 1, 2").fetchall()
        ended = conn.execute("SELECT task_id, attempt_no FROM protheon.attempt WHERE outcome = 'succeeded' ORDER BY 1, 2").fetchall()
        assert rows == ended == sorted(self.model.rows)
        assert len({task_id for task_id, _ in rows}) == len(rows), "a chunk was loaded twice"

    @invariant()
    def the_ledger_agrees_with_itself(self) -> None:
        """What must hold of any ledger, whatever a model says."""
        broken = (
            self.stage.conn("monitor")
            .execute("""
            SELECT task.id, task.state, task.attempt_no, made.*
              FROM protheon.task
              LEFT JOIN LATERAL (
                   SELECT count(*) AS n, count(*) FILTER (WHERE ended_at IS NULL) AS n_open, coalesce(max(attempt_no), 0) AS last,
                          max(attempt_no) FILTER (WHERE ended_at IS NULL) AS open_no,
                          count(*) FILTER (WHERE counts AND cost = 'failure') AS failures,
                          count(*) FILTER (WHERE counts AND cost = 'crash') AS crashes,
                          count(*) FILTER (WHERE counts AND cost = 'loss') AS losses
                     FROM (SELECT *, attempt.attempt_no > task.counted_after AND NOT given_back AS counts FROM protheon.attempt) AS attempt
                    WHERE attempt.task_id = task.id) AS made ON true
             WHERE n_open > 1 OR n <> last OR last <> task.attempt_no
                OR (state = 'running') <> (lease_until_at IS NOT NULL) OR (state = 'running') <> (n_open = 1)
                OR (state = 'running' AND open_no <> task.attempt_no)
                OR (state <> 'succeeded'
                    AND (task.failures, task.crashes, task.losses) <> (made.failures, made.crashes, made.losses))""")
            .fetchall()
        )
        assert broken == []

    @invariant()
    def a_succeeded_task_never_changes(self) -> None:
        found = self.stage.conn("monitor").execute("""
            SELECT task.id, to_jsonb(task), jsonb_agg(to_jsonb(attempt) ORDER BY attempt.attempt_no)
              FROM protheon.task JOIN protheon.attempt ON attempt.task_id = task.id
             WHERE task.id = ANY(%s) OR task.state = 'succeeded' GROUP BY task.id""", (list(self.finished),)).fetchall()  # fmt: skip
        for task_id, *what in found:
            assert self.finished.setdefault(task_id, what) == what
