"""Dead letters on a real PostgreSQL: who brings what back, who comes second, and what cannot be brought back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.errors import ConfigError, LeadershipLost, NotFound
from protheon_dask.ledger import chunks, dead_letters, replays, runs, verbs
from protheon_dask.ledger.dead_letters import Letters, PurgedFile
from protheon_dask.ledger.rows import rows
from protheon_dask.ledger.tasks import NewTask
from protheon_dask.ledger.tasks import enqueue as enqueue_task
from protheon_dask.model import Joined, Outcome, RunState, Seen, SplitState, StageClock
from tests.fixtures.cluster import wait_until
from tests.integration.ledger.test_verbs import LEASE_S, Scene, failed, loaded, scene, submit, worker

__all__ = ["scene"]


@pytest.fixture
def died(scene: Scene) -> Scene:
    """Both chunks of the run are dead, and the run has ended over them; the source was cut to its end."""
    runs.split_ended(scene.conn, scene.epoch, scene.load_id, SplitState.COMPLETE, n_chunks=2)
    for task in (0, 1):
        die(scene, task)
    assert runs.end_run(scene.conn, scene.run_id, RunState.INCOMPLETE, "2 chunks are dead")
    return scene


def die(scene: Scene, task: int, attempt_no: int = 0) -> None:
    verbs.dead_letter(scene.conn, scene.held(attempt_no, task=task), failed(), Outcome.FAILED, "failed 5 times", now=scene.now)


def replay(scene: Scene, *task_ids: int, run_id: int = 0, epoch: int | None = None, conn: psycopg.Connection | None = None) -> Letters:
    conn = conn or scene.conn
    with conn.transaction():
        return dead_letters.replay(
            conn, scene.epoch if epoch is None else epoch, dead_letters.choose(conn, run_id, task_ids), ephemeral=True
        )


def purge(scene: Scene, *task_ids: int, conn: psycopg.Connection | None = None) -> tuple[Letters, list[PurgedFile]]:
    conn = conn or scene.conn
    with conn.transaction():
        return dead_letters.purge(conn, dead_letters.choose(conn, 0, task_ids))


def run_of(scene: Scene, run_id: int = 0) -> tuple[str, str | None, bool, bool]:
    """State, reason, has it ended, is its cluster of one command?"""
    row = scene.conn.execute(
        "SELECT state, state_reason, ended_at IS NOT NULL, ephemeral FROM protheon.run WHERE id = %s", (run_id or scene.run_id,)
    ).fetchone()
    assert row is not None
    return row


def counters(scene: Scene) -> list[tuple[str, int, int, int, int]]:
    return scene.conn.execute("SELECT state, attempt_no, failures, crashes, losses FROM protheon.task ORDER BY id").fetchall()


def test_all_of_a_run_are_ready_again_with_their_history_and_the_run_goes_on(died: Scene) -> None:
    done = replay(died)
    assert (done.task_ids, done.run_ids) == (tuple(died.task_ids), (died.run_id,))
    assert counters(died) == [("ready", 1, 0, 0, 0)] * 2
    assert run_of(died) == ("running", None, False, True)
    assert died.story(0) == [("w1", 1, "failed")]
    assert [row["status"] for row in dead_letters.listed(died.conn, died.run_id, everything=True)] == ["replayed"] * 2
    [counted] = dead_letters.counts(died.conn, died.run_id)
    assert (counted["status"], counted["n"], counted["error_class"], counted["message"]) == ("replayed", 2, "ValueError", "no\\0good")
    assert dead_letters.listed(died.conn, died.run_id) == []
    died.conn.execute("UPDATE protheon.task SET ready_at = %s", (died.now,))
    for task in (0, 1):
        verbs.complete(died.conn, died.held(1, task=task), loaded(), StageClock())
    assert runs.finish_loads(died.conn) == [died.load_id]


def test_who_comes_second_finds_none_open_and_learns_which_run_has_them(died: Scene) -> None:
    replay(died)
    again = replay(died)
    assert (again.task_ids, again.run_ids) == ((), (died.run_id,))
    assert f"no dead letter of run {died.run_id} is open" in again.notices
    named = replay(died, died.task_ids[0])
    assert (named.task_ids, named.run_ids) == ((), (died.run_id,))
    assert named.notices == (f"task {died.task_ids[0]} was replayed before: it is ready",)


def test_one_is_replayed_and_the_other_stays_dead(died: Scene) -> None:
    assert replay(died, died.task_ids[1]).task_ids == (died.task_ids[1],)
    assert [state for state, *_ in counters(died)] == ["dead", "ready"]
    [left] = dead_letters.listed(died.conn, died.run_id)
    assert left["task_id"] == died.task_ids[0]


def test_a_paused_run_stays_paused_and_what_is_ready_waits(scene: Scene) -> None:
    die(scene, 0)
    runs.pause_run(scene.conn, scene.run_id, "lunch")
    done = replay(scene, run_id=scene.run_id)
    assert done.task_ids == (scene.task_ids[0],)
    assert any(f"run {scene.run_id} is paused" in notice for notice in done.notices)
    assert run_of(scene)[:2] == ("paused", "lunch")
    assert scene.claim(1) is None


def test_a_run_that_is_about_to_end_does_not_end_over_tasks_that_were_made_ready(scene: Scene) -> None:
    """The coordinator saw nothing left to do; before it wrote that down, somebody replayed."""
    runs.split_ended(scene.conn, scene.epoch, scene.load_id, SplitState.COMPLETE, n_chunks=2)
    die(scene, 0)
    verbs.complete(scene.conn, scene.held(0, task=1), loaded(), StageClock())
    [seen] = runs.open_runs(scene.conn)
    assert seen.n_live_loads == 0
    replay(scene)
    assert not runs.end_run(scene.conn, scene.run_id, RunState.INCOMPLETE, "1 chunk is dead", seen=seen)
    assert run_of(scene)[:3] == ("running", None, False)
    assert scene.conn.execute("SELECT state FROM protheon.task ORDER BY id").fetchall() == [("ready",), ("succeeded",)]
    [seen] = runs.open_runs(scene.conn)
    assert runs.end_run(scene.conn, scene.run_id, RunState.INCOMPLETE, "given up", seen=seen)


def test_a_broker_that_leads_no_more_replays_nothing(died: Scene) -> None:
    with pytest.raises(LeadershipLost):
        replay(died, epoch=died.epoch - 1)
    assert [state for state, *_ in counters(died)] == ["dead", "dead"]
    assert run_of(died)[2]


def test_a_retired_an_undone_and_a_cancelled_load_are_refused_with_what_to_do(died: Scene) -> None:
    died.conn.execute("UPDATE protheon.run SET state = 'cancelled'")
    with pytest.raises(ConfigError, match=f"tasks .*: run {died.run_id} was cancelled: type its `protheon load` again"):
        replay(died)
    died.conn.execute("UPDATE protheon.run SET state = 'incomplete'")
    died.conn.execute("UPDATE protheon.load SET retired_at = now()")
    with pytest.raises(ConfigError, match=f"task {died.task_ids[0]}: load {died.load_id} \\(/a\\) is retired"):
        replay(died, died.task_ids[0])
    died.conn.execute("UPDATE protheon.load SET undo_started_at = now(), undone_at = now()")
    with pytest.raises(ConfigError, match=f"load {died.load_id} \\(/a\\) is undone: load its file anew"):
        replay(died)
    assert [state for state, *_ in counters(died)] == ["dead", "dead"]
    with pytest.raises(NotFound, match="there is no task 4242"):
        replay(died, died.task_ids[0], 4242)
    with pytest.raises(NotFound, match="there is no run 99"):
        replay(died, run_id=99)


def test_of_a_run_with_a_retired_file_the_others_are_replayed_and_that_one_is_named(died: Scene) -> None:
    other, joined = submit(died.conn, b"e" * 16, path="/b")
    died.conn.execute(
        "INSERT INTO protheon.run_load (run_id, load_id, path, joined) VALUES (%s, %s, '/a', 'skipped')", (other, died.load_id)
    )
    died.conn.execute("UPDATE protheon.load SET retired_at = now() WHERE id = %s", (died.load_id,))
    died.conn.execute("UPDATE protheon.task SET load_id = %s WHERE id = %s", (joined.load_id, died.task_ids[1]))
    done = replay(died, run_id=other)
    assert done.task_ids == (died.task_ids[1],)
    assert any(f"task {died.task_ids[0]} stay dead: load {died.load_id} (/a) is retired" in notice for notice in done.notices)


def test_no_run_comes_back_onto_rows_that_are_being_deleted(died: Scene) -> None:
    """Its table loses the rows of another load just now, by which new rows would be judged."""
    _, other = submit(died.conn, b"e" * 16)
    died.conn.execute("UPDATE protheon.load SET undo_started_at = now(), retired_at = now() WHERE id = %s", (other.load_id,))
    died.conn.execute("INSERT INTO protheon.undo_count VALUES (%s, 'public.t', true)", (other.load_id,))
    tables = '[{"name": "public.t", "on_conflict": "ignore"}]'
    died.conn.execute("UPDATE protheon.pipeline SET tables = %s", (tables,))
    with pytest.raises(ConfigError, match=f"the rows of load {other.load_id} are being deleted"):
        replay(died, run_id=died.run_id)
    assert run_of(died)[0] == "incomplete"


def test_purged_stays_dead_needs_no_file_and_is_taken_up_by_its_number_alone(died: Scene) -> None:
    first, second = died.task_ids
    done, files = purge(died, first)
    assert (done.task_ids, files) == ((first,), [PurgedFile(died.load_id, 1, 1)])
    assert [item.task_id for item in chunks.stored(died.conn)] == [second]
    assert chunks.purged(died.conn, [died.load_id]) == [(died.load_id, 1)]
    assert runs.count_lines(died.conn, died.run_id).purged == 1
    again, files = purge(died, first)
    assert (again.task_ids, again.notices, files) == ((), (f"task {first} was purged before",), [])

    assert replay(died, run_id=died.run_id).task_ids == (second,)
    assert [state for state, *_ in counters(died)] == ["dead", "ready"]
    assert replay(died, first).task_ids == (first,)
    assert chunks.purged(died.conn, [died.load_id]) == []
    assert {item.task_id for item in chunks.stored(died.conn)} == {first, second}
    live, _ = purge(died, first)
    assert (live.task_ids, live.notices) == ((), (f"task {first} was replayed before: it is ready",))


def test_tasks_without_a_run_are_listed_replayed_and_purged_by_their_numbers(died: Scene) -> None:
    made = [enqueue_task(died.conn, NewTask("jobs:mail", "1", 0, 0.0, None, None, None), now=died.now) for _ in range(2)]
    for task_id in made:
        claimed = verbs.claim(died.conn, Seen(task_id, 0), worker("w1"), uuid4(), LEASE_S, now=died.now)
        assert claimed is not None
        verbs.dead_letter(died.conn, claimed.lease, failed(), Outcome.FAILED, "failed 5 times", now=died.now)
    assert {row["task_id"] for row in dead_letters.listed(died.conn, None, queue=True)} == set(made)
    assert {row["task_id"] for row in dead_letters.listed(died.conn, died.run_id)} == set(died.task_ids)
    done = replay(died, made[0], died.task_ids[0])
    assert (set(done.task_ids), done.run_ids) == ({made[0], died.task_ids[0]}, (died.run_id,))
    assert purge(died, made[1]) == (Letters((made[1],)), [])
    assert [(row["status"], row["n"]) for row in dead_letters.counts(died.conn, None, queue=True)] == [("purged", 1), ("replayed", 1)]


def test_the_load_typed_again_takes_up_purged_chunks_too_and_their_letters_are_replayed(died: Scene) -> None:
    purge(died, died.task_ids[0])
    _, joined = submit(died.conn)
    assert joined.joined is Joined.RESUMED
    assert counters(died) == [("ready", 1, 0, 0, 0)] * 2
    assert [row["status"] for row in dead_letters.listed(died.conn, died.run_id, everything=True)] == ["replayed"] * 2


@pytest.mark.parametrize("first", ["replay", "purge"])
def test_of_a_replay_and_a_purge_at_the_same_moment_the_first_one_wins(died: Scene, first: str) -> None:
    """The second one has looked already when the first one has not committed yet."""
    acts: dict[str, Callable[[psycopg.Connection], tuple[int, ...]]] = {
        "replay": lambda conn: replay(died, run_id=died.run_id, conn=conn).task_ids,
        "purge": lambda conn: purge(died, *died.task_ids, conn=conn)[0].task_ids,
    }
    second = "purge" if first == "replay" else "replay"
    looked, answers = Event(), {}

    def late() -> tuple[int, ...]:
        looked.set()
        return acts[second](two)

    with psycopg.connect(died.url, autocommit=True) as one, psycopg.connect(died.url, autocommit=True) as two, ThreadPoolExecutor() as pool:
        with one.transaction():
            answers[first] = acts[first](one)
            waits = pool.submit(late)
            wait_until(lambda: looked.is_set() and is_blocked(died, two))
        answers[second] = waits.result(10)
    assert answers == {first: tuple(died.task_ids), second: ()}
    assert {state for state, *_ in counters(died)} == {"ready" if first == "replay" else "dead"}


def test_a_replay_and_a_cancellation_at_the_same_moment_take_turns(died: Scene) -> None:
    """Both lock load, then run: a replay that had locked runs to look at them had one of the two ended for a deadlock."""
    died.conn.execute("UPDATE protheon.run SET state = 'running', ended_at = NULL")
    heir, _ = submit(died.conn)  # waits for the load, so that the cancellation hands it over
    with psycopg.connect(died.url, autocommit=True) as two, ThreadPoolExecutor() as pool:
        with died.conn.transaction():
            rows(died.conn, "hand_over_loads", {"run_id": died.run_id})
            replaying = pool.submit(replay, died, run_id=died.run_id, conn=two)
            with psycopg.connect(died.url, autocommit=True) as third:
                waits = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
                wait_until(lambda: third.execute(waits, (two.info.backend_pid,)).fetchone() == (True,))
            assert runs.end_run(died.conn, died.run_id, RunState.CANCELLED, "by hand")
        assert replaying.result(10).task_ids == tuple(died.task_ids)
    assert run_of(died, heir)[0] == "running"


def is_blocked(scene: Scene, conn: psycopg.Connection) -> bool:
    row = scene.conn.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (conn.info.backend_pid,)).fetchone()
    return row == (True,)


def test_a_replay_of_rejects_is_retired_before_its_dead_chunks_come_back_or_it_goes_on(died: Scene) -> None:
    """Its lines are free only where nothing of it is loaded any more: else they would be loaded twice."""
    _, other = submit(died.conn, b"e" * 16)
    died.conn.execute("UPDATE protheon.load SET replay_of = %s WHERE id = %s", (other.load_id, died.load_id))
    with psycopg.connect(died.url, autocommit=True) as two, ThreadPoolExecutor() as pool:
        with died.conn.transaction():
            assert replay(died, run_id=died.run_id).task_ids == tuple(died.task_ids)
            waits = pool.submit(replays.retire_dead, two, other.load_id)
            with psycopg.connect(died.url, autocommit=True) as third:
                wait_until(
                    lambda: third.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (two.info.backend_pid,)).fetchone() == (True,)
                )
        assert waits.result(10) == []
    assert [state for state, *_ in counters(died)] == ["ready", "ready"]
    runs.cancel_run(died.conn, died.run_id, "by hand")
    assert replays.retire_dead(died.conn, other.load_id) == [died.load_id]
