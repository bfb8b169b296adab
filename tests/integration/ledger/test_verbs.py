"""The verbs of a task on a real PostgreSQL: who holds it, what an ending does, and what a stale attempt cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from protheon_dask.errors import LeadershipLost, LeaseLost
from protheon_dask.ledger import chunks, leadership, replays, reports, rows, runs, tasks, verbs
from protheon_dask.ledger.statements import statement
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
    RejectedLine,
    RunState,
    Seen,
    SplitState,
    StageClock,
    TableCount,
    Worker,
)
from protheon_dask.pipelines.table import Column, Table
from protheon_dask.run.statistics import statistics_of

LEASE_S = 60.0
PIPELINE = {
    "name": "p",
    "version": "1",
    "reference": "p",
    "object": b"",
    "signature": b"",
    "code_hash": b"c",
    "tables": "[]",
    "versions": "{}",
    "options": "{}",
}


def manifest(chunk_no: int, n_lines: int = 10, **changes: Any) -> ChunkManifest:
    values: dict[str, Any] = {
        "chunk_no": chunk_no,
        "first_line": (chunk_no - 1) * n_lines + 1,
        "n_lines": n_lines,
        "byte_offset": (chunk_no - 1) * 100,
        "raw_bytes": 100,
        "raw_xxh3": b"r" * 16,
        "stored_bytes": 50,
        "stored_xxh3": b"s" * 16,
        "generation": 1,
        **changes,
    }
    return ChunkManifest(**values)


def worker(name: str) -> Worker:
    return Worker(uuid4(), name, f"host-of-{name}")


@dataclass
class Scene:
    """One run with one load of two chunks, a leader, and a clock that the test moves."""

    url: str
    conn: psycopg.Connection
    epoch: int = 0
    run_id: int = 0
    load_id: int = 0
    task_ids: list[int] = field(default_factory=list)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def claim(self, attempt_no: int, who: str = "w1", token: UUID | None = None, task: int = 0) -> verbs.Claimed | None:
        return verbs.claim(self.conn, Seen(self.task_ids[task], attempt_no), worker(who), token or uuid4(), LEASE_S, now=self.now)

    def held(self, attempt_no: int, who: str = "w1", task: int = 0) -> Lease:
        claimed = self.claim(attempt_no, who, task=task)
        assert claimed is not None
        return claimed.lease

    def story(self, task: int = 0) -> list[tuple[str, int, str | None]]:
        return self.conn.execute(
            "SELECT worker, attempt_no, outcome FROM protheon.attempt WHERE task_id = %s ORDER BY attempt_no", (self.task_ids[task],)
        ).fetchall()

    def state(self, task: int = 0) -> tuple[str, int]:
        row = self.conn.execute("SELECT state, attempt_no FROM protheon.task WHERE id = %s", (self.task_ids[task],)).fetchone()
        assert row is not None
        return row


def submit(
    conn: psycopg.Connection, digest: bytes = b"d" * 16, *, again: bool = False, pipeline: dict[str, Any] = PIPELINE, **changes: Any
) -> tuple[int, runs.JoinedLoad]:
    columns = {
        "paths": ["/a"],
        "pipeline_name": "p",
        "pipeline_version": "1",
        "chunk_lines": None,
        "reject_limit_lines": None,
        "reject_limit_fraction": 0.5,
        "request_id": str(uuid4()),
        "ephemeral": False,
    }
    run_id = runs.create_run(conn, columns, pipeline)
    assert run_id is not None
    values: dict[str, Any] = {
        "run_id": run_id,
        "pipeline_name": "p",
        "pipeline_version": "1",
        "options": "{}",
        "code_hash": b"c",
        "path": "/a",
        "identity": Identity(5, digest),
        "chunk_lines": 10,
        "chunk_lines_given": False,
        "max_chunk_bytes": 1 << 20,
        "max_line_bytes": 1 << 20,
        "estimated_lines": 20,
        **changes,
    }
    joined = runs.join_load(conn, runs.NewLoad(**values), again=again)
    runs.start_run(conn, run_id, joined.notices)
    return run_id, joined


@pytest.fixture
def scene(ledger_database: str) -> Iterator[Scene]:
    with psycopg.connect(ledger_database, autocommit=True) as conn:
        lead = leadership.take(conn, uuid4())
        assert lead is not None
        it = Scene(ledger_database, conn, lead.epoch)
        it.run_id, joined = submit(conn)
        it.load_id = joined.load_id
        it.task_ids = [verbs.enqueue(conn, it.epoch, it.load_id, manifest(n)) for n in (1, 2)]
        conn.execute("UPDATE protheon.task SET ready_at = %s", (it.now,))
        yield it


def loaded(lines: int = 10) -> Loaded:
    return Loaded(Lines(total=lines, loaded=lines), (TableCount("public.t", lines, lines, 0, 0),))


def failed(cost: Cost = Cost.FAILURE) -> Failed:
    return Failed(cost, "ValueError", "no\0good", "Traceback ..")


def test_a_worker_that_lost_its_lease_cannot_complete(scene: Scene) -> None:
    first = scene.held(0, "w1")
    scene.advance(LEASE_S + 1)
    with scene.conn.transaction():
        [expiring] = verbs.expire(scene.conn, scene.epoch, [], now=scene.now)
        verbs.release(scene.conn, expiring.lease, failed(Cost.LOSS), Outcome.EXPIRED, 0.0, now=scene.now)
    second = scene.held(1, "w2")

    with pytest.raises(LeaseLost), scene.conn.transaction():
        verbs.complete(scene.conn, first, loaded(), StageClock())
    verbs.complete(scene.conn, second, loaded(), StageClock())

    assert scene.story() == [("w1", 1, "expired"), ("w2", 2, "succeeded")]
    assert scene.state() == ("succeeded", 2)


@pytest.mark.parametrize("write", ["release", "dead_letter", "fence"])
def test_every_write_of_a_stale_attempt_is_refused(scene: Scene, write: str) -> None:
    first = scene.held(0)
    verbs.release(scene.conn, first, failed(), Outcome.FAILED, 0.0, now=scene.now)
    scene.held(1, "w2")
    writes: dict[str, Callable[[], None]] = {
        "release": lambda: verbs.release(scene.conn, first, failed(), Outcome.FAILED, 0.0),
        "dead_letter": lambda: verbs.dead_letter(scene.conn, first, failed(), Outcome.FAILED, "done with it"),
        "fence": lambda: verbs.check_fence(scene.conn, first),
    }
    with pytest.raises(LeaseLost):
        writes[write]()
    assert scene.state() == ("running", 2)


def test_asking_again_with_the_same_token_returns_the_same_attempt(scene: Scene) -> None:
    token = uuid4()
    first, again = scene.claim(0, token=token), scene.claim(0, token=token)
    assert first is not None
    assert again is not None
    assert first.lease == again.lease
    assert again.chunk == manifest(1)
    assert scene.claim(0, token=uuid4()) is None


def test_asking_again_while_the_first_claim_is_on_its_way_finds_its_attempt(scene: Scene) -> None:
    """The connection broke, and its statement still waits in the server: for a standby to confirm it, say."""
    token, seen, who = uuid4(), Seen(scene.task_ids[0], 0), worker("w1")
    with psycopg.connect(scene.url) as first, ThreadPoolExecutor(1) as thread:
        on_its_way = verbs.claim(first, seen, who, token, LEASE_S, now=scene.now)
        asked_again = thread.submit(lambda: verbs.claim(scene.conn, seen, who, token, LEASE_S, now=scene.now))
        with psycopg.connect(scene.url, autocommit=True) as monitor:
            while monitor.execute("SELECT cardinality(pg_blocking_pids(%s))", (scene.conn.info.backend_pid,)).fetchone() == (0,):
                assert not asked_again.done()
        first.commit()
        assert asked_again.result(timeout=30) == on_its_way is not None


def is_waiting(scene: Scene, conn: psycopg.Connection) -> bool:
    with psycopg.connect(scene.url, autocommit=True) as monitor:
        return monitor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (conn.info.backend_pid,)).fetchone() == (True,)


@pytest.mark.parametrize("how", ["a task", "a run", "a replay"])
def test_a_cancellation_that_meets_a_claim_ends_its_attempt(scene: Scene, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Its statement began before the claim was committed, and took the task after: an attempt left open lets nobody claim again."""
    if how == "a task":
        scene.task_ids = [tasks.enqueue(scene.conn, tasks.NewTask("other", "1", 0, 0.0, None, None, None), now=scene.now)]
    elif how == "a replay":
        _, original = submit(scene.conn, b"e" * 16)
        scene.conn.execute("UPDATE protheon.load SET replay_of = %s WHERE id = %s", (original.load_id, scene.load_id))
    else:  # this one never waits for a row: hold it up between its snapshot and its locks
        held_up = statement("cancel").replace(b"WHERE run.state", b"WHERE (SELECT pg_advisory_xact_lock(1)) IS NOT NULL AND run.state")
        monkeypatch.setattr(rows, "statement", lambda name: held_up if name == "cancel" else statement(name))

    def cancel(conn: psycopg.Connection) -> None:
        if how == "a task":
            assert tasks.cancel(conn, scene.task_ids[0])
        elif how == "a run":
            assert verbs.cancel(conn) == [Seen(scene.task_ids[0], 1)]
        else:
            replays.retire(conn, scene.load_id)

    with psycopg.connect(scene.url) as other, psycopg.connect(scene.url, autocommit=True) as conn, ThreadPoolExecutor(1) as thread:
        other.execute("SELECT pg_advisory_xact_lock(1)")
        assert verbs.claim(other, Seen(scene.task_ids[0], 0), worker("w1"), uuid4(), LEASE_S, now=scene.now) is not None
        if how == "a run":
            runs.end_run(scene.conn, scene.run_id, RunState.CANCELLED, "by hand")
        cancelled = thread.submit(cancel, conn)
        while not is_waiting(scene, conn):
            assert not cancelled.done()
        other.commit()
        cancelled.result(timeout=30)
    assert scene.state() == ("cancelled", 1)
    assert scene.story() == [("w1", 1, "cancelled")]


def test_nothing_is_claimed_before_it_is_due_or_while_its_run_is_paused(scene: Scene) -> None:
    first = scene.held(0)
    verbs.release(scene.conn, first, failed(), Outcome.FAILED, 30.0, now=scene.now)
    assert scene.claim(1) is None
    scene.advance(31)
    assert runs.pause_run(scene.conn, scene.run_id, "because")
    assert scene.claim(1) is None
    assert verbs.pick_ready(scene.conn, [], 10, now=scene.now) == []


def test_an_attempt_of_before_a_run_was_resumed_does_not_pause_it_again(scene: Scene) -> None:
    """Two attempts meet a missing table; one pauses the run, a person mends it and resumes, and only then the other says so too."""
    early = scene.held(0)
    assert runs.pause_run(scene.conn, scene.run_id, "no table", by=early)
    assert runs.resume_run(scene.conn, scene.run_id, None, ephemeral=False)
    assert not runs.pause_run(scene.conn, scene.run_id, "no table", by=early)
    scene.now = datetime.now(UTC) + timedelta(seconds=1)
    assert runs.pause_run(scene.conn, scene.run_id, "no table", by=scene.held(0, task=1))
    assert runs.resume_run(scene.conn, scene.run_id, None, ephemeral=False)
    assert runs.pause_run(scene.conn, scene.run_id, "by hand")


def test_retries_are_picked_first_and_dispatched_tasks_not_again(scene: Scene) -> None:
    second = scene.held(0, task=1)
    verbs.release(scene.conn, second, failed(), Outcome.FAILED, 0.0, now=scene.now)
    picked = verbs.pick_ready(scene.conn, [], 10, now=scene.now)
    assert [(p.seen.task_id, p.seen.attempt_no) for p in picked] == [(scene.task_ids[1], 1), (scene.task_ids[0], 0)]
    assert [p.seen.task_id for p in verbs.pick_ready(scene.conn, [scene.task_ids[1]], 10, now=scene.now)] == [scene.task_ids[0]]


def test_a_renewal_tells_ours_from_locked_and_from_lost(scene: Scene) -> None:
    mine, other = scene.held(0), scene.held(0, task=1)
    with psycopg.connect(scene.url) as committing:
        verbs.complete(committing, other, loaded(), StageClock())
        assert verbs.renew(scene.conn, [mine, other], LEASE_S) == {mine: True, other: False}
    assert verbs.renew(scene.conn, [mine, other], LEASE_S) == {mine: True}


def test_a_lease_that_is_locked_by_its_commit_is_not_expired(scene: Scene) -> None:
    lease = scene.held(0)
    scene.advance(LEASE_S + 1)
    with psycopg.connect(scene.url) as committing:
        verbs.complete(committing, lease, loaded(), StageClock())
        assert verbs.expire(scene.conn, scene.epoch, [], now=scene.now) == []
        assert verbs.stuck(scene.conn, 30.0, now=scene.now) == []
        scene.advance(31)
        assert verbs.stuck(scene.conn, 30.0, now=scene.now) == [Seen(lease.task_id, 1)]


def test_terminate_ends_the_holder_of_the_advisory_lock_and_no_waiter(scene: Scene) -> None:
    key = verbs.advisory_key(scene.task_ids[0])
    with psycopg.connect(scene.url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        assert verbs.terminate(scene.conn, scene.task_ids) == 1
        with pytest.raises(psycopg.OperationalError):
            holder.execute("SELECT 1")
    assert verbs.terminate(scene.conn, scene.task_ids) == 0


def test_a_process_that_is_known_to_be_gone_is_expired_before_its_lease(scene: Scene) -> None:
    lease = scene.held(0)
    with scene.conn.transaction():
        [expiring] = verbs.expire(scene.conn, scene.epoch, [Seen(lease.task_id, 1)], now=scene.now)
        assert expiring.known_gone
        verbs.dead_letter(scene.conn, expiring.lease, failed(Cost.CRASH), Outcome.CRASHED, "crashed 3 times", now=scene.now)
    assert scene.state() == ("dead", 1)
    assert verbs.spent(scene.conn, lease.task_id) == {Cost.FAILURE: 0, Cost.CRASH: 1, Cost.LOSS: 0}


def test_a_broker_that_lost_the_lead_can_neither_enqueue_nor_expire(scene: Scene) -> None:
    lease = scene.held(0)
    with psycopg.connect(scene.url, autocommit=True) as other:
        assert leadership.take(other, uuid4()) is None
        scene.conn.execute("SELECT pg_advisory_unlock_all()")
        assert leadership.take(other, uuid4()) is not None
    with pytest.raises(LeadershipLost):
        verbs.enqueue(scene.conn, scene.epoch, scene.load_id, manifest(3))
    assert verbs.expire(scene.conn, scene.epoch, [Seen(lease.task_id, 1)]) == []
    assert verbs.renew(scene.conn, [lease], LEASE_S) == {lease: True}


def test_a_chunk_that_is_enqueued_again_is_the_same_task(scene: Scene) -> None:
    scene.held(0)
    assert verbs.enqueue(scene.conn, scene.epoch, scene.load_id, manifest(1)) == scene.task_ids[0]
    assert scene.state() == ("running", 1)
    assert scene.conn.execute("SELECT count(*) FROM protheon.task").fetchone() == (2,)
    with pytest.raises(psycopg.errors.UniqueViolation):
        verbs.enqueue(scene.conn, scene.epoch, scene.load_id, manifest(1, raw_xxh3=b"o" * 16))
    with pytest.raises(LeadershipLost):
        verbs.enqueue(scene.conn, scene.epoch - 1, scene.load_id, manifest(1))


def test_a_chunk_that_is_restored_again_is_the_same_task(scene: Scene) -> None:
    for _ in range(2):
        assert chunks.restored(scene.conn, scene.epoch, scene.load_id, manifest(1, generation=2)) == scene.task_ids[0]
    with pytest.raises(LeadershipLost):
        chunks.restored(scene.conn, scene.epoch - 1, scene.load_id, manifest(1, generation=2))


def test_an_oversized_line_that_is_enqueued_again_is_rejected_once(scene: Scene) -> None:
    line = manifest(3, 1, first_line=21, stored_bytes=0, stored_xxh3=b"", oversized=True)
    first, again = (
        chunks.enqueue_oversized(scene.conn, scene.epoch, scene.load_id, scene.run_id, line, b"raw", "h", uuid4()) for _ in range(2)
    )
    assert first == again
    assert scene.conn.execute("SELECT count(*) FROM protheon.reject").fetchone() == (1,)
    assert scene.conn.execute("SELECT count(*) FROM protheon.attempt WHERE task_id = %s", (first,)).fetchone() == (1,)


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (Lines(9, loaded=9), ()),
        (Lines(10, loaded=11, filtered=-1), ()),
        (Lines(10, loaded=10), (TableCount("t", 10, 5, 3, 1),)),
        (Lines(10, loaded=10), (TableCount("t", 10, 11, 0, -1),)),
    ],
)
def test_a_completion_that_does_not_add_up_is_refused_by_the_schema(scene: Scene, lines: Lines, counts: tuple[TableCount, ...]) -> None:
    lease = scene.held(0)
    with pytest.raises(psycopg.errors.CheckViolation), scene.conn.transaction():
        verbs.complete(scene.conn, lease, Loaded(lines, counts), StageClock())
    assert scene.state() == ("running", 1)


def test_a_run_knows_the_chunks_of_others_that_are_taken_before_its_own(scene: Scene) -> None:
    def behind(run_id: int) -> tuple[tuple[int, ...], int]:
        shown = statistics_of(scene.conn, run_id)
        return shown.behind, shown.chunks_before

    small, joined = submit(scene.conn, b"e" * 16)
    assert behind(small) == ((), 0)  # nothing is cut yet
    scene.task_ids.append(verbs.enqueue(scene.conn, scene.epoch, joined.load_id, manifest(1)))
    scene.conn.execute("UPDATE protheon.task SET ready_at = %s", (scene.now,))
    assert (behind(small), behind(scene.run_id)) == (((scene.run_id,), 2), ((), 0))
    verbs.complete(scene.conn, scene.held(0), loaded(), StageClock())
    assert behind(small) == ((scene.run_id,), 1)
    scene.held(0, task=1)
    assert behind(small) == ((scene.run_id,), 1)  # a chunk that is loading is before it, too
    runs.pause_run(scene.conn, scene.run_id, "by hand")
    assert behind(small) == ((), 0)
    scene.held(0, task=2)
    assert behind(small) == ((), 0)


def test_a_lost_commit_is_resolved_from_the_ledger(scene: Scene) -> None:
    lease = scene.held(0)
    assert verbs.resolve(scene.conn, lease) == verbs.Resolved(committed=False, still_ours=True)
    verbs.complete(scene.conn, lease, loaded(), StageClock())
    assert verbs.resolve(scene.conn, lease) == verbs.Resolved(committed=True, still_ours=False)


def test_typing_it_again_attaches_resumes_or_skips(scene: Scene) -> None:
    _, attached = submit(scene.conn)
    assert (attached.load_id, attached.joined) == (scene.load_id, Joined.ATTACHED)

    running = scene.held(0)
    heir, _ = submit(scene.conn)
    runs.cancel_run(scene.conn, scene.run_id, "by hand")
    assert scene.conn.execute("SELECT owner_run_id < %s FROM protheon.load", (heir,)).fetchone() == (True,)
    assert scene.state() == ("running", 1)  # another run waits for it: only detached

    for run_id in (scene.run_id + 1, heir):
        runs.cancel_run(scene.conn, run_id, "by hand")
    assert scene.state() == ("cancelled", 1)
    with pytest.raises(LeaseLost):
        verbs.check_fence(scene.conn, running)

    assert gone_on_by(scene, heir) == ()
    owner, resumed = submit(scene.conn)
    assert resumed.joined is Joined.RESUMED
    assert (gone_on_by(scene, scene.run_id), gone_on_by(scene, owner)) == ((owner,), ())
    scene.now = datetime.now(UTC) + timedelta(seconds=1)  # replay wrote ready_at by the database's clock
    for task in (0, 1):
        verbs.complete(scene.conn, scene.held(1 - task, task=task), loaded(), StageClock())
    runs.split_ended(scene.conn, scene.epoch, scene.load_id, SplitState.COMPLETE, n_chunks=2)
    assert runs.finish_loads(scene.conn) == [scene.load_id]

    _, skipped = submit(scene.conn)
    assert skipped.joined is Joined.SKIPPED
    assert skipped.notices == (f"/a: loaded already by run {owner}: skipped",)

    lines = "(load_id, task_id, attempt_no, line, byte_offset, part, reason, raw, raw_bytes)"
    row = "load_id, task_id, 1, line, 0, part, 'odd', '', 0"
    made = "(VALUES (1, NULL), (1, 'half'), (2, NULL)) AS made (line, part)"
    scene.conn.execute(f"INSERT INTO protheon.reject {lines} SELECT {row} FROM protheon.chunk, {made} WHERE chunk_no = 1")
    _, mended = submit(scene.conn, code_hash=b"mended")
    assert mended.notices == (
        skipped.notices[0],
        f"/a: the pipeline's code has changed since run {owner} loaded it, its version '1' has not: it stays as it is; "
        "a new version loads it anew, and so does --again",
        "/a: still refused of its lines: 2; once their cause is mended, this loads them: "
        f"protheon rejects replay {owner} --pipeline PIPELINE",
    )


def test_a_load_whose_pipeline_has_other_tables_now_says_which(scene: Scene) -> None:
    def tables(*names: str, column: str) -> str:
        return json.dumps([Table(name=name, columns=(Column("id", "bigint"), Column(column, "text"))).to_json() for name in names])

    scene.conn.execute(
        "UPDATE protheon.pipeline SET tables = %s WHERE run_id = %s", (tables("shop.ta", "shop.x", column="a"), owner(scene))
    )
    new = {**PIPELINE, "tables": tables("shop.tb", "shop.x", column="b")}
    _, told = submit(scene.conn, pipeline=new, code_hash=b"other")
    what = "(its tables: shop.tb is new; shop.ta is no more; shop.x has other columns (b, a))"
    assert any(f"changed since the load was begun {what}, its version" in notice for notice in told.notices)


def gone_on_by(scene: Scene, run_id: int) -> tuple[int, ...]:
    """Runs that have this one's files, as `runs show` and `runs list` say it."""
    listed = next(row["gone_on_by"] for row in reports.runs(scene.conn) if row["run"] == run_id)
    shown = statistics_of(scene.conn, run_id).gone_on_by
    assert shown == tuple(listed)
    return shown


def owner(scene: Scene) -> int:
    [(run_id,)] = scene.conn.execute("SELECT owner_run_id FROM protheon.load WHERE id = %s", (scene.load_id,)).fetchall()
    return int(run_id)


def test_a_load_whose_owner_is_cancelled_while_another_run_attaches_goes_to_that_run(scene: Scene) -> None:
    done = scene.held(0)
    verbs.complete(scene.conn, done, loaded(), StageClock())
    waiting, attached = submit(scene.conn)
    assert attached.joined is Joined.ATTACHED
    runs.end_run(scene.conn, scene.run_id, RunState.CANCELLED, "by hand")  # cancel_run, whose handing over saw no one yet
    verbs.cancel(scene.conn)
    assert scene.state(1) == ("cancelled", 0)

    with scene.conn.transaction(), psycopg.connect(scene.url, autocommit=True) as other:
        assert runs.adopt_orphans(scene.conn) == [scene.load_id]
        assert runs.adopt_orphans(other) == []  # locked
    assert owner(scene) == waiting
    assert [scene.state(task) for task in (0, 1)] == [("succeeded", 1), ("ready", 0)]
    assert runs.adopt_orphans(scene.conn) == []


def test_a_load_of_a_paused_run_goes_to_the_oldest_run_that_runs_and_waits_for_it(scene: Scene) -> None:
    heir, _ = submit(scene.conn)
    submit(scene.conn)
    running = scene.held(0)
    runs.pause_run(scene.conn, scene.run_id, "because")
    assert runs.adopt_orphans(scene.conn) == [scene.load_id]
    assert owner(scene) == heir
    verbs.complete(scene.conn, running, loaded(), StageClock())
    assert scene.claim(0, task=1) is not None


def test_what_died_with_its_run_is_not_taken_up_by_a_run_that_waited(scene: Scene) -> None:
    submit(scene.conn)
    verbs.dead_letter(scene.conn, scene.held(0), failed(), Outcome.FAILED, "failed 5 times")
    runs.end_run(scene.conn, scene.run_id, RunState.INCOMPLETE, "1 chunk is dead")
    assert runs.adopt_orphans(scene.conn) == []


def test_again_makes_a_new_load_and_retires_the_old(scene: Scene) -> None:
    runs.cancel_run(scene.conn, scene.run_id, "by hand")
    _, again = submit(scene.conn, again=True)
    assert again.joined is Joined.NEW
    assert again.load_id != scene.load_id


def test_a_load_with_a_gap_between_its_chunks_is_never_finished(scene: Scene) -> None:
    for task in (0, 1):
        verbs.complete(scene.conn, scene.held(0, task=task), loaded(), StageClock())
    scene.conn.execute("UPDATE protheon.chunk SET first_line = 12 WHERE chunk_no = 2")
    runs.split_ended(scene.conn, scene.epoch, scene.load_id, SplitState.COMPLETE, n_chunks=2)
    assert runs.finish_loads(scene.conn) == []


def test_a_run_counts_lines_and_dead_tasks_of_its_loads(scene: Scene) -> None:
    lease, other = scene.held(0), scene.held(0, task=1)
    line = RejectedLine(3, 20, None, "bad", "22P02", "public.t", b"raw", 3)
    verbs.reject(scene.conn, scene.load_id, lease.task_id, 1, [line])
    verbs.complete(scene.conn, lease, Loaded(Lines(10, loaded=9, rejected=1), ()), StageClock())
    verbs.dead_letter(scene.conn, other, failed(), Outcome.FAILED, "failed 5 times")
    assert runs.count_lines(scene.conn, scene.run_id) == runs.Committed(lines=10, own_lines=10, rejected=1, dead=1)
    [run] = runs.open_runs(scene.conn)
    assert (run.n_live_loads, run.n_unfinished) == (1, 1)


def test_while_all_that_is_left_waits_for_its_next_try_the_statistics_say_how_long_and_why(scene: Scene) -> None:
    for task, pause_s in ((0, 60.0), (1, 30.0)):
        lease = scene.held(0, task=task)
        error = Failed(Cost.FAILURE, "MemoryError", f"no room for {task}")
        verbs.release(scene.conn, lease, error, Outcome.FAILED, pause_s)
        shown = statistics_of(scene.conn, scene.run_id)
        if task == 0:
            assert (shown.chunks_later, shown.is_pausing, shown.last_error) == (1, False, None)  # the other one can be taken
    assert (shown.chunks_ready, shown.chunks_later, shown.is_pausing) == (2, 2, True)
    assert (shown.last_error, shown.last_message) == ("MemoryError", "no room for 1")
    assert shown.next_try_s == pytest.approx(30.0, abs=5.0)
    scene.conn.execute("UPDATE protheon.task SET ready_at = now()")
    assert not statistics_of(scene.conn, scene.run_id).is_pausing
