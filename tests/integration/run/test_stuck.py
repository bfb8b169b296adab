"""Processes that hold Dask's thread after their attempt was taken: who is restarted, when, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
import pytest

from protheon_dask.ledger import hosts, verbs
from protheon_dask.model import Cost, Dispatch, Failed, Outcome, Seen, Worker
from protheon_dask.run.dask_link import WorkerSeen
from protheon_dask.run.stuck import StuckWorkers
from tests.integration.ledger.test_verbs import Scene, scene

__all__ = ["scene"]

GRACE_S = 10.0


@dataclass
class Stuck:
    """An attempt that expired at second 0 in a process that Dask still has."""

    conn: psycopg.Connection
    attempt: Seen
    process_uuid: UUID = field(default_factory=uuid4)
    restarted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stuck = StuckWorkers(GRACE_S, lambda worker: self.restarted.append(worker.name))
        self.worker = WorkerSeen("tcp://1:1", "w", "h", self.process_uuid, 1)
        self.dispatch = Dispatch(self.attempt.task_id, self.attempt.attempt_no - 1, "ingest")

    def expire(self, *, is_ours: bool = True) -> None:
        self.stuck.expired(self.attempt, self.process_uuid, 0.0, self.dispatch if is_ours else None)

    def at(self, seconds: float, *workers: WorkerSeen) -> list[str]:
        """Who was restarted by then."""
        self.stuck.settle(self.conn, workers or (self.worker,), seconds)
        return self.restarted


@pytest.fixture
def it(scene: Scene) -> Stuck:
    process_uuid = uuid4()
    claimed = verbs.claim(scene.conn, Seen(scene.task_ids[0], 0), Worker(process_uuid, "w", "h"), uuid4(), 60.0)
    assert claimed is not None
    verbs.release(scene.conn, claimed.lease, Failed(Cost.LOSS, "WorkerDied", "its lease ran out"), Outcome.EXPIRED, 0.0)
    return Stuck(scene.conn, Seen(scene.task_ids[0], 1), process_uuid)


def test_a_process_that_does_not_answer_within_the_grace_is_restarted_once(it: Stuck) -> None:
    it.expire()
    assert it.at(GRACE_S - 0.1) == []
    assert it.at(GRACE_S) == ["w"]
    it.expire()
    assert it.at(2 * GRACE_S) == ["w"]


def test_a_process_that_answers_is_left_alone(it: Stuck) -> None:
    it.expire()
    it.stuck.answered(it.dispatch)
    assert it.at(GRACE_S) == []


def test_a_process_that_is_gone_or_was_followed_by_another_is_left_alone(it: Stuck) -> None:
    it.expire()
    follower = WorkerSeen("tcp://1:1", "w", "h", uuid4(), 1)
    foreign = WorkerSeen("tcp://1:2", "x", "h", None, 1)
    assert it.at(GRACE_S, follower, foreign) == []
    assert it.at(2 * GRACE_S) == []


@pytest.mark.parametrize("how", ["dispatched by an earlier broker", "forgotten by Dask"])
def test_of_an_attempt_of_which_nobody_will_hear_a_sign_of_life_decides(it: Stuck, how: str) -> None:
    def expire() -> None:
        it.expire(is_ours=how == "forgotten by Dask")
        if how == "forgotten by Dask":
            it.stuck.forgotten(it.dispatch)

    expire()
    assert hosts.give_back(it.conn, [it.attempt], (Cost.LOSS,))
    assert it.at(GRACE_S) == []
    it.conn.execute("UPDATE protheon.attempt SET given_back = false")
    expire()
    assert it.at(GRACE_S) == ["w"]
