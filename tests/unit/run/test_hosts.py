"""Whose fault a failure is, the chunk's or the host's: as stories and as properties; and where tasks are placed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.ledger.hosts import HostAside
from protheon_dask.ledger.verbs import Ready
from protheon_dask.model import Dispatch, Seen
from protheon_dask.run.dask_link import WorkerSeen
from protheon_dask.run.hosts import N_FAILED, PREFER_S, Ended, Ending, HostWatch, Judgement, judge

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENDED = {"+": Ended.GOOD, "-": Ended.BAD, "?": Ended.MISFIT}


def story(text: str) -> list[Ending]:
    """Endings from words like ``a-3``: on host a, badly, task 3; of run 1, or ``a-3/2`` of run 2."""
    endings: list[Ending] = []
    for word in text.split():
        task, _, run = word[2:].partition("/")
        attempt_no = 1 + sum(ending.seen.task_id == int(task) for ending in endings)
        endings.append(Ending(word[0], Seen(int(task), attempt_no), int(run or 1), ENDED[word[1]], f"said {word}"))
    return endings


def asides(text: str, working: str = "ab", tried: str = "") -> dict[str, list[int]]:
    """Host -> tasks that are given back."""
    return {aside.host: [seen.task_id for seen in aside.attempts] for aside in judge(story(text), working, tried).aside}


@pytest.mark.parametrize(
    ("text", "aside"),
    [
        ("a-1 b+9 a-2 a-3", {"a": [1, 2, 3]}),
        ("a-1 a-2 b+9 a-3", {"a": [1, 2, 3]}),
        ("a-1 a-2 a-3 b+9", {}),  # the other host may have begun to succeed when what was wrong passed
        ("a-1 a-2 a-3 b+9 a-4", {"a": [1, 2, 3, 4]}),
        ("b+9 a-1 a-2 a-3", {}),
        ("a-1 b+9 a-2", {}),  # too few
        ("a-1 b+9 a-1 a-1 a-1", {}),  # one chunk, again and again
        ("a-1 a-2 b+9 a+4 a-3", {}),  # not in a row
        ("a-1 b-1 b+9 a-2 a-3", {}),  # chunk 1 fails on b as well: it is the chunk
        ("a-1 b-1 a-2 b+9 a-3 a-4", {"a": [2, 3, 4]}),
        ("a-1 b+9/2 a-2 a-3", {}),  # another run's pipeline says nothing of this one's
    ],
)
def test_three_different_chunks_in_a_row_that_fail_on_one_host_while_another_succeeds_are_the_hosts_fault(
    text: str, aside: dict[str, list[int]]
) -> None:
    assert asides(text) == aside


@pytest.mark.parametrize(
    ("text", "aside"),
    [
        ("a?1 b+9", {"a": [1]}),
        ("b+9 a?1", {}),  # it may be gone on both by now
        ("a?1 b+9/2", {}),
        ("a?1 a+2 b+9", {}),  # it was mended
        ("a?1 a+2/2 b+9", {"a": [1]}),  # what another run's pipeline needs is there
        ("a-5 a?1 b+9", {"a": [5, 1]}),
    ],
)
def test_what_a_host_lacks_and_another_has_sets_it_aside_at_once(text: str, aside: dict[str, list[int]]) -> None:
    assert asides(text) == aside


def test_one_host_alone_is_never_set_aside_and_what_it_lacks_pauses_the_run() -> None:
    assert judge(story("a-1 a-2 a-3 a-4"), "a", "") == Judgement()
    [pause] = judge(story("a-1 a?2 a?3"), "a", "").paused
    assert (pause.run_id, pause.reason, [seen.task_id for seen in pause.attempts]) == (1, "on a: said a?3", [2, 3])


def test_a_run_pauses_only_when_every_host_that_works_lacks_something() -> None:
    assert judge(story("a?1"), "ab", "").paused == ()
    assert judge(story("a?1 b+1"), "ab", "").paused == ()
    [pause] = judge(story("a?1 b?1"), "ab", "").paused
    assert pause.reason == "on every host: said b?1"
    assert [pause.run_id for pause in judge(story("a?1 b?1/1 a?2/2"), "ab", "").paused] == [1]
    assert judge(story("a?1 b?1"), "", "").paused == ()


@pytest.mark.parametrize(
    ("text", "working", "aside", "readmitted"),
    [
        ("b+9", "b", {}, ()),  # its chunk is under way
        ("a+1 b+9", "b", {}, ("a",)),
        ("a-1 b+9", "b", {"a": [1]}, ()),
        ("a?1", "b", {"a": [1]}, ()),
        ("a-1", "", {}, ("a",)),  # there is no comparison any more
    ],
)
def test_a_host_that_is_tried_again_is_judged_by_that_one_chunk(
    text: str, working: str, aside: dict[str, list[int]], readmitted: tuple[str, ...]
) -> None:
    assert asides(text, working, "a") == aside
    assert judge(story(text), working, "a").readmitted == readmitted


@pytest.mark.parametrize(
    ("text", "aside", "readmitted"),
    [
        ("b-1 a-1", {}, ()),  # chunk 1 fails everywhere: another is tried
        ("b-1 a-1 a+2", {}, ("a",)),
        ("b-1 a-1 a-2", {"a": [2]}, ()),
        ("b-1 a?1", {"a": [1]}, ()),  # what it lacks is no matter of the chunk
    ],
)
def test_a_chunk_that_failed_on_another_host_too_proves_nothing_of_a_host_that_is_tried(
    text: str, aside: dict[str, list[int]], readmitted: tuple[str, ...]
) -> None:
    assert asides(text, "b", "a") == aside
    assert judge(story(text), "b", "a").readmitted == readmitted


def test_what_was_under_way_when_a_host_was_set_aside_is_given_back_too() -> None:
    assert judge(story("a-1 a+2 b-3"), "b", "", "a").late == (Seen(1, 1),)
    assert judge(story("a-1"), "b", "a", "").late == ()


ENDINGS = st.lists(
    st.builds(
        Ending,
        host=st.sampled_from("abc"),
        seen=st.builds(Seen, st.integers(1, 6), st.integers(1, 3)),
        run_id=st.sampled_from([1, 2, None]),
        ended=st.sampled_from(Ended),
        message=st.just("m"),
    ),
    max_size=25,
)
HOSTS = st.sets(st.sampled_from("abc"))


@given(endings=ENDINGS, working=HOSTS)
def test_whatever_is_heard_a_host_stays_and_only_what_is_its_own_is_given_back(endings: Sequence[Ending], working: Collection[str]) -> None:
    verdict = judge(endings, working, set())
    assert {aside.host for aside in verdict.aside} < set(working) or not verdict.aside
    for aside in verdict.aside:
        own = [ending for ending in endings if ending.host == aside.host]
        assert own[-1].ended is not Ended.GOOD or any(ending.ended is Ended.MISFIT for ending in own)
        charged = {ending.seen for ending in own if ending.ended is not Ended.GOOD}
        assert aside.attempts
        assert set(aside.attempts) <= charged
        misfits = {ending.seen for ending in own if ending.ended is Ended.MISFIT}
        elsewhere = {e.seen.task_id for e in endings if e.host != aside.host and e.ended is not Ended.GOOD}
        assert {seen.task_id for seen in set(aside.attempts) - misfits}.isdisjoint(elsewhere)


@given(endings=ENDINGS, working=HOSTS, tried=HOSTS)
def test_a_judgement_names_a_host_once_and_no_stranger(endings: Sequence[Ending], working: set[str], tried: set[str]) -> None:
    verdict = judge(endings, working - tried, tried)
    named = [aside.host for aside in verdict.aside] + list(verdict.readmitted)
    assert len(named) == len(set(named))
    assert set(named) <= working | tried
    assert set(verdict.readmitted) <= tried


def test_the_number_of_failures_is_the_designs() -> None:
    assert (N_FAILED, PREFER_S) == (3, 10.0)


def seen_worker(host: str, n: int = 1) -> WorkerSeen:
    return WorkerSeen(f"tcp://{host}:{n}", f"{host}-{n}", host, uuid4(), 1)


WORKERS = [seen_worker("a", 1), seen_worker("a", 2), seen_worker("b", 1)]


def ready(task_id: int, failed_on: str | None = None) -> Ready:
    return Ready(Seen(task_id, 1 if failed_on else 0), "ingest", 1, 1, failed_on)


def watch(**aside: bool) -> HostWatch:
    """One to whom these hosts are set aside; true: their time is over."""
    made = HostWatch()
    made._aside = {host: HostAside(host, "m", NOW, NOW + timedelta(minutes=5), is_due) for host, is_due in aside.items()}
    return made


def test_tasks_go_anywhere_and_a_retry_to_another_host_while_there_is_one() -> None:
    placed = watch().place([ready(1), ready(2, "a"), ready(3)], WORKERS, {}, 0.0)
    assert placed == {None: [Dispatch(1, 0, "ingest"), Dispatch(3, 0, "ingest")], ("tcp://b:1",): [Dispatch(2, 1, "ingest")]}
    assert watch().place([ready(2, "b")], [seen_worker("b")], {}, 0.0) == {None: [Dispatch(2, 1, "ingest")]}


def test_a_host_that_is_aside_gets_nothing_and_one_whose_time_is_over_one_task() -> None:
    assert list(watch(b=False).place([ready(1), ready(2)], WORKERS, {}, 0.0)) == [("tcp://a:1", "tcp://a:2")]
    made = watch(b=True)
    placed = made.place([ready(1, "b"), ready(2), ready(3)], WORKERS, {}, 0.0)
    assert placed[("tcp://b:1",)] == [Dispatch(2, 0, "ingest")]  # not the one that failed there
    assert placed[("tcp://a:1", "tcp://a:2")] == [Dispatch(1, 1, "ingest"), Dispatch(3, 0, "ingest")]
    assert made.to_try(WORKERS, {2: Dispatch(2, 0, "ingest")}) == []
    assert made.to_try(WORKERS, {}) == ["b"]


def test_where_no_host_works_only_the_trial_is_placed() -> None:
    assert watch(a=False, b=False).place([ready(1)], WORKERS, {}, 0.0) == {}
    assert watch(a=False, b=True).place([ready(1, "b"), ready(2)], WORKERS, {}, 0.0) == {("tcp://b:1",): [Dispatch(1, 1, "ingest")]}
