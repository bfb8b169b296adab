"""The coordinator's watch over hosts on a real ledger: a retry that waits for another host, what is heard, and what a new broker knows."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import psycopg

from protheon_dask.config import Settings
from protheon_dask.ledger import hosts, verbs
from protheon_dask.model import Cost, Dispatch, Failed, Outcome, Seen, StageClock
from protheon_dask.run.dask_link import WorkerSeen
from protheon_dask.run.failure import end_without_effect
from protheon_dask.run.hosts import ASIDE_S, PREFER_S, Ended, Ending, HostWatch
from protheon_dask.run.tasks import FAILED, MISFIT, REFUSED, SUCCEEDED
from tests.fixtures.cluster import wait_until
from tests.integration.ledger.test_verbs import Scene, failed, loaded, scene
from tests.integration.run.conftest import Running

__all__ = ["scene"]

A = WorkerSeen("tcp://a:1", "a-1", "host-of-a", uuid4(), 1)
B = WorkerSeen("tcp://b:1", "b-1", "host-of-b", uuid4(), 1)
C = WorkerSeen("tcp://c:1", "c-1", "host-of-c", uuid4(), 1)


def fail(scene: Scene, who: str, task: int = 0, cost: Cost = Cost.FAILURE) -> Dispatch:
    """One attempt that fails on the host of who; the dispatch that it was."""
    _, attempt_no = scene.state(task)
    lease = scene.held(attempt_no, who, task=task)
    with scene.conn.transaction():
        spent = verbs.spent(scene.conn, lease.task_id)
        end_without_effect(scene.conn, lease, failed(cost), Outcome.FAILED, spent, Settings().retry_policy)
    scene.conn.execute("UPDATE protheon.task SET ready_at = %s WHERE state = 'ready'", (scene.now,))
    return Dispatch(lease.task_id, attempt_no, "ingest")


def ready(scene: Scene) -> verbs.Ready:
    return verbs.pick_ready(scene.conn, [], 1)[0]


def test_a_retry_that_no_other_host_takes_in_time_goes_anywhere(scene: Scene) -> None:
    fail(scene, "a")
    watch, retry = HostWatch(), ready(scene)
    assert retry.failed_on == "host-of-a"
    [(where, [item])] = watch.place([retry], [A, B], {}, 0.0).items()
    assert where == (B.address,)
    dispatched = {item.task_id: item}
    assert watch.waited_enough(scene.conn, dispatched, PREFER_S - 0.1) == []
    assert watch.waited_enough(scene.conn, dispatched, PREFER_S) == [item]
    assert watch.place([retry], [A, B], {}, PREFER_S) == {None: [replace(item, copy_no=1)]}
    assert watch.waited_enough(scene.conn, dispatched, 3 * PREFER_S) == []


def test_a_retry_that_was_taken_is_not_dispatched_twice(scene: Scene) -> None:
    fail(scene, "a")
    watch, retry = HostWatch(), ready(scene)
    [[item]] = watch.place([retry], [A, B], {}, 0.0).values()
    assert scene.held(1, "b")
    assert watch.waited_enough(scene.conn, {item.task_id: item}, PREFER_S) == []


def test_what_cost_nothing_prefers_no_host(scene: Scene) -> None:
    lease = scene.held(0, "a")
    verbs.release(scene.conn, lease, Failed(Cost.NOTHING, "LedgerUnavailable", "away"), Outcome.RELEASED, 0.0, now=scene.now)
    assert ready(scene).failed_on is None


def test_a_host_that_cannot_even_claim_is_set_aside_and_a_new_broker_knows_it(scene: Scene) -> None:
    """Its password is wrong, say: no attempt of it is in the ledger."""
    watch = HostWatch()
    for n in (1, 2):
        watch.hear(scene.conn, Dispatch(100 + n, 0, "ingest"), f"{REFUSED}password", "host-of-a")
    verbs.complete(scene.conn, scene.held(0, "b"), loaded(), StageClock())
    watch.hear(scene.conn, Dispatch(scene.task_ids[0], 0, "ingest"), SUCCEEDED, "host-of-b")
    watch.settle(scene.conn, scene.epoch, [A, B], is_due=False)
    assert hosts.hosts_aside(scene.conn) == []
    watch.hear(scene.conn, Dispatch(103, 0, "ingest"), f"{REFUSED}password", "host-of-a")
    watch.settle(scene.conn, scene.epoch, [A, B], is_due=False)
    [aside] = hosts.hosts_aside(scene.conn)
    assert (aside.host, aside.is_due) == ("host-of-a", False)
    assert aside.reason.endswith("the last: refused: password")
    assert (aside.until_at - aside.set_aside_at).total_seconds() == ASIDE_S

    after = HostWatch()
    after.settle(scene.conn, scene.epoch, [A, B], is_due=True)
    assert after.free([A, B]) == [B]
    assert after.told is not None
    assert after.told == watch.told
    scene.conn.execute("UPDATE protheon.host_aside SET until_at = now()")
    after.settle(scene.conn, scene.epoch, [A, B], is_due=True)
    assert after.to_try([A, B], {}) == ["host-of-a"]


def test_what_failed_on_a_host_that_was_set_aside_meanwhile_is_given_back(scene: Scene) -> None:
    hosts.set_host_aside(scene.conn, scene.epoch, "host-of-a", "before", ASIDE_S, now=scene.now)
    watch = HostWatch()
    watch.settle(scene.conn, scene.epoch, [A, B], is_due=True)
    scene.conn.execute("UPDATE protheon.host_aside SET until_at = %s", (scene.now,))  # it claims, as it did just before
    item = fail(scene, "a")
    scene.conn.execute("UPDATE protheon.host_aside SET until_at = now() + interval '1 minute'")
    watch.hear(scene.conn, item, FAILED, "host-of-a")
    watch.settle(scene.conn, scene.epoch, [A, B], is_due=False)
    ended = hosts.ended_attempt(scene.conn, Seen(item.task_id, 1))
    assert ended is not None
    assert ended.given_back


def test_chunks_that_fail_everywhere_set_one_host_aside_and_not_one_after_another(scene: Scene) -> None:
    """The second host fails with what failed on the first, whose endings were dropped when it was judged."""
    watch = HostWatch()

    def hear(host: str, task_ids: range, attempt_no: int) -> set[str]:
        for task_id in task_ids:
            watch.note(Ending(host, Seen(task_id, attempt_no), scene.run_id, Ended.BAD, "a poison chunk"))
            watch.note(Ending("host-of-c", Seen(900 + task_id, 1), scene.run_id, Ended.GOOD))
            watch.settle(scene.conn, scene.epoch, [A, B, C], is_due=False)
        return {item.host for item in hosts.hosts_aside(scene.conn)}

    poison = range(101, 104)
    assert hear("host-of-a", poison, 1) == {"host-of-a"}
    assert hear("host-of-b", poison, 2) == {"host-of-a"}
    assert hear("host-of-b", range(201, 204), 1) == {"host-of-a", "host-of-b"}  # and chunks that fail there only are its fault still

    scene.conn.execute("UPDATE protheon.host_aside SET until_at = now()")
    watch.settle(scene.conn, scene.epoch, [A, B, C], is_due=True)
    assert hear("host-of-a", range(103, 104), 3) == {"host-of-a", "host-of-b"}
    assert watch.to_try([A, B, C], {}) == ["host-of-a", "host-of-b"]  # that chunk was no trial: another is


def test_what_is_locked_when_it_is_to_be_given_back_is_not_waited_for_and_not_forgotten(scene: Scene) -> None:
    hosts.set_host_aside(scene.conn, scene.epoch, "host-of-a", "before", ASIDE_S, now=scene.now)
    watch = HostWatch()
    watch.settle(scene.conn, scene.epoch, [A, B], is_due=True)
    scene.conn.execute("UPDATE protheon.host_aside SET until_at = %s", (scene.now,))
    item = fail(scene, "a")
    scene.conn.execute("UPDATE protheon.host_aside SET until_at = now() + interval '1 minute'")
    watch.hear(scene.conn, item, FAILED, "host-of-a")
    scene.conn.execute("SET lock_timeout = '5s'")

    def is_given_back() -> bool:
        ended = hosts.ended_attempt(scene.conn, Seen(item.task_id, 1))
        return ended is not None and ended.given_back

    with psycopg.connect(scene.url) as person:
        person.execute("SELECT FROM protheon.task WHERE id = %s FOR UPDATE", (item.task_id,))
        watch.settle(scene.conn, scene.epoch, [A, B], is_due=False)
        assert not is_given_back()
    watch.settle(scene.conn, scene.epoch, [A, B], is_due=True)
    assert is_given_back()


def test_a_run_is_paused_with_no_task_held_so_that_a_replay_meets_no_deadlock(scene: Scene) -> None:
    """A replay of dead letters locks the run first, then its tasks."""
    watch = HostWatch()
    item = fail(scene, "a")
    watch.hear(scene.conn, item, MISFIT, "host-of-a")
    with psycopg.connect(scene.url) as replay, psycopg.connect(scene.url, autocommit=True) as monitor:
        replay.execute("SELECT FROM protheon.run FOR NO KEY UPDATE")
        settling = Running(lambda: watch.settle(scene.conn, scene.epoch, [A], is_due=False))
        waits = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        wait_until(lambda: monitor.execute(waits, (scene.conn.info.backend_pid,)).fetchone() == (True,))
        replay.execute("SELECT FROM protheon.task FOR NO KEY UPDATE NOWAIT")
        replay.commit()
        settling.answer()
    assert scene.conn.execute("SELECT state FROM protheon.run").fetchall() == [("paused",)]
