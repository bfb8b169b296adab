"""Hosts in a real ledger: who is set aside, and what is given back, once, and only where a task may still go on."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest

from protheon_dask.config import Settings
from protheon_dask.errors import LeadershipLost
from protheon_dask.ledger import hosts, runs, verbs
from protheon_dask.model import Cost, Outcome, RunState, Seen, StageClock
from protheon_dask.run.failure import end_without_effect
from tests.integration.ledger.test_verbs import Scene, failed, loaded, scene

__all__ = ["scene"]

POLICY = Settings().retry_policy


def end(scene: Scene, cost: Cost, who: str = "w1") -> Seen:
    """One attempt at the first task that ends at this cost, as policy decides."""
    _, attempt_no = scene.state()
    lease = scene.held(attempt_no, who)
    outcome = Outcome.EXPIRED if cost is Cost.LOSS else Outcome.FAILED
    with scene.conn.transaction():
        end_without_effect(scene.conn, lease, failed(cost), outcome, verbs.spent(scene.conn, lease.task_id), POLICY)
    scene.conn.execute("UPDATE protheon.task SET ready_at = %s WHERE state = 'ready'", (scene.now,))
    return Seen(lease.task_id, lease.attempt_no)


def give_back(scene: Scene, attempts: Sequence[Seen], cost: Cost = Cost.LOSS, epoch: int | None = None) -> list[hosts.GivenBack]:
    return hosts.give_back(scene.conn, attempts, (cost,), epoch=epoch)


def counts(scene: Scene) -> tuple[int, ...]:
    row = scene.conn.execute("SELECT failures, crashes, losses FROM protheon.task WHERE id = %s", (scene.task_ids[0],)).fetchone()
    assert row is not None
    return row


def letters(scene: Scene) -> list[tuple[bool]]:
    return scene.conn.execute("SELECT replayed_at IS NOT NULL FROM protheon.dead_letter").fetchall()


def test_a_loss_is_given_back_once(scene: Scene) -> None:
    first, second = end(scene, Cost.LOSS), end(scene, Cost.LOSS)
    assert counts(scene) == (0, 0, 2)
    assert give_back(scene, [first, first]) == [hosts.GivenBack(first, is_back=False)]
    assert give_back(scene, [first]) == []
    assert counts(scene) == (0, 0, 1)
    assert give_back(scene, [first, second]) == [hosts.GivenBack(second, is_back=False)]
    assert (counts(scene), scene.state()) == ((0, 0, 0), ("ready", 2))


def test_only_what_was_asked_for_and_has_ended_is_given_back(scene: Scene) -> None:
    failure = end(scene, Cost.FAILURE)
    open_one = scene.held(1)
    assert give_back(scene, [failure, Seen(open_one.task_id, open_one.attempt_no), Seen(4711, 1)]) == []
    assert counts(scene) == (1, 0, 0)


def test_twenty_one_losses_that_are_given_back_make_no_dead_letter(scene: Scene) -> None:
    for _ in range(21):
        assert len(give_back(scene, [end(scene, Cost.LOSS)])) == 1
    assert (counts(scene), scene.state(), letters(scene)) == ((0, 0, 0), ("ready", 21), [])


def test_a_task_that_died_of_losses_is_ready_again_when_one_is_given_back(scene: Scene) -> None:
    lost = [end(scene, Cost.LOSS) for _ in range(20)]
    assert (scene.state(), letters(scene)) == (("dead", 20), [(False,)])
    assert give_back(scene, lost[3:4]) == [hosts.GivenBack(lost[3], is_back=True)]
    assert (counts(scene), scene.state(), letters(scene)) == ((0, 0, 19), ("ready", 20), [(True,)])
    assert scene.claim(20, "w2") is not None


def test_a_task_that_died_of_something_else_stays_dead(scene: Scene) -> None:
    lost = end(scene, Cost.LOSS)
    for _ in range(3):
        end(scene, Cost.CRASH)
    assert give_back(scene, [lost]) == [hosts.GivenBack(lost, is_back=False)]
    assert (counts(scene), scene.state(), letters(scene)) == ((0, 3, 0), ("dead", 4), [(False,)])


@pytest.mark.parametrize("why", ["its run has ended", "its load is retired", "a person gave it up"])
def test_a_dead_task_that_may_not_go_on_stays_dead(scene: Scene, why: str) -> None:
    lost = [end(scene, Cost.LOSS) for _ in range(20)]
    if why == "its run has ended":
        assert runs.end_run(scene.conn, scene.run_id, RunState.CANCELLED, "by hand")
    else:
        change = "load SET retired_at = now()" if why == "its load is retired" else "dead_letter SET purged_at = now()"
        scene.conn.execute(f"UPDATE protheon.{change}".encode())
    assert give_back(scene, lost) == [hosts.GivenBack(seen, is_back=False) for seen in lost]
    assert (counts(scene), scene.state()[0]) == ((0, 0, 0), "dead")


def test_a_succeeded_task_does_not_change(scene: Scene) -> None:
    lost = end(scene, Cost.LOSS)
    verbs.complete(scene.conn, scene.held(1), loaded(), StageClock())
    assert give_back(scene, [lost]) == [hosts.GivenBack(lost, is_back=False)]
    assert (counts(scene), scene.state()) == ((0, 0, 1), ("succeeded", 2))


def test_a_backoff_is_over_when_its_failure_is_given_back(scene: Scene) -> None:
    failure = end(scene, Cost.FAILURE)
    scene.conn.execute("UPDATE protheon.task SET ready_at = now() + interval '1 hour'")
    assert give_back(scene, [failure], Cost.FAILURE, scene.epoch)
    [ready] = [item for item in verbs.pick_ready(scene.conn, [], 5) if item.seen == Seen(failure.task_id, 1)]
    assert ready.failed_on == "host-of-w1"


def test_a_replay_and_a_giving_back_at_the_same_moment_leave_one_state(scene: Scene) -> None:
    """Nor is the replay waited for: who gives back renews leases, or leads."""
    lost = [end(scene, Cost.LOSS) for _ in range(20)]
    scene.conn.execute("SET lock_timeout = '5s'")
    with psycopg.connect(scene.url) as person:
        assert verbs.replay(person, scene.load_id) == [scene.task_ids[0]]
        assert give_back(scene, lost[:1]) == [hosts.GivenBack(lost[0], is_back=False, is_locked=True)]
        assert give_back(scene, lost[:1], epoch=scene.epoch - 1) == []
        person.commit()
    assert give_back(scene, lost[:1]) == [hosts.GivenBack(lost[0], is_back=False)]
    assert (counts(scene), scene.state(), letters(scene)) == ((0, 0, 0), ("ready", 20), [(True,)])


def test_nothing_is_given_back_or_set_aside_by_a_broker_that_leads_no_more(scene: Scene) -> None:
    failure = end(scene, Cost.FAILURE)
    assert give_back(scene, [failure], Cost.FAILURE, scene.epoch - 1) == []
    with pytest.raises(LeadershipLost):
        hosts.set_host_aside(scene.conn, scene.epoch - 1, "host-of-w1", "because", 300.0)
    hosts.set_host_aside(scene.conn, scene.epoch, "host-of-w1", "because", 300.0)
    assert not hosts.readmit_host(scene.conn, scene.epoch - 1, "host-of-w1")
    assert (counts(scene), len(hosts.hosts_aside(scene.conn))) == ((1, 0, 0), 1)


def test_a_host_that_is_aside_claims_nothing_until_its_time_is_over(scene: Scene) -> None:
    hosts.set_host_aside(scene.conn, scene.epoch, "host-of-w1", "a\0b", 300.0, now=scene.now)
    assert scene.claim(0, "w1") is None
    assert scene.claim(0, "w2") is not None
    scene.advance(299)
    [aside] = hosts.hosts_aside(scene.conn, now=scene.now)
    assert (aside.host, aside.reason, aside.is_due) == ("host-of-w1", "a\\0b", False)
    scene.advance(2)
    [aside] = hosts.hosts_aside(scene.conn, now=scene.now)
    assert aside.is_due
    assert scene.claim(0, "w1", task=1) is not None
    assert hosts.readmit_host(scene.conn, scene.epoch, "host-of-w1")
    assert hosts.hosts_aside(scene.conn) == []
