"""The schedule of faults: the seed decides everything, and a kind that missed comes again soon."""

from __future__ import annotations

from itertools import islice

from tests.chaos.faults import KINDS
from tests.chaos.schedule import AWAY, CROWD, SLIP, Schedule, Step

N = 200


def dealt(seed: int, n: int = N) -> list[Step]:
    return list(islice(Schedule(seed, list(KINDS)).steps(), n))


def test_the_same_seed_deals_the_same_steps_and_another_seed_others() -> None:
    assert dealt(7) == dealt(7)
    assert dealt(7) != dealt(8)


def test_every_kind_comes_equally_often_alone_and_with_others() -> None:
    steps = dealt(7, 40 * len(KINDS))
    assert {len(step.kinds) for step in steps} == {1, *CROWD}
    times = [sum(kind in step.kinds for step in steps) for kind in KINDS]
    assert max(times) - min(times) <= 2
    assert {kind for step in steps if len(step.kinds) == 1 for kind in step.kinds} == set(KINDS)
    assert {kind for step in steps if len(step.kinds) > 1 for kind in step.kinds} == set(KINDS)


def test_no_fault_comes_twice_at_once_and_a_server_is_stopped_once() -> None:
    for step in dealt(7, 40 * len(KINDS)):
        assert len(set(step.kinds)) == len(step.kinds)
        assert not set(step.kinds) >= AWAY


def test_a_kind_that_missed_comes_again_within_a_few_deals() -> None:
    schedule = Schedule(7, list(KINDS))
    steps = schedule.steps()
    first = next(steps)
    for kind in first.kinds:
        schedule.note(kind, is_counted=False)
    soon = [kind for step in islice(steps, 2 * SLIP) for kind in step.kinds]
    assert set(first.kinds) <= set(soon)
    assert schedule.missed.total() == len(first.kinds)
    assert not schedule.counted
