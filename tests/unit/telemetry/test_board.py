"""What the dashboard's process holds: bounded, and fresh as long as a page shows it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.model import RunState
from protheon_dask.telemetry.board import MAX_RUN, MAX_STORIES, REFRESH_S, SHARE, WANTED_S, Board, picture_from, story_from, to_bytes
from protheon_dask.telemetry.picture import BUSY, ClusterPicture, Flow, HostAside, Totals, WorkerPicture
from protheon_dask.telemetry.story import RunStory
from tests.unit.telemetry.stories import FAULTY


class Time:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def story(run: int, *, ended: bool) -> RunStory:
    state = RunState.SUCCEEDED if ended else RunState.RUNNING
    return replace(
        FAULTY, statistics=replace(FAULTY.statistics, run=run, state=state), ended_at=FAULTY.submitted_at + 60 if ended else None
    )


def picture(*runs: RunStory) -> ClusterPicture:
    return ClusterPicture(
        at=1.5e9,
        version="1",
        uptime_s=10.0,
        missing=("since 10:00:00 UTC: PostgreSQL is away",),
        totals=Totals(retries_by_cause={"failed": 2}),
        flow=Flow(1.0, 2.0, 3.0, 4.0),
        runs=tuple(run.statistics for run in runs),
        workers=(WorkerPicture("w-1", "höst", BUSY, task_id=7, run=3, stage="copy"),),
        stage_seconds={"copy": 1.5},
        oldest_ready_s=None,
        workspace_bytes=10,
        workspace_quota_bytes=20,
        look_ahead_chunks=3,
        hosts_aside=(HostAside("other", "no module x", 1.6e9),),
        bound=None,
    )


def test_pictures_and_stories_arrive_as_they_were_sent() -> None:
    sent = picture(story(3, ended=False), story(2, ended=True))
    assert picture_from(to_bytes(sent)) == sent
    assert story_from(to_bytes(story(2, ended=True))) == story(2, ended=True)
    with pytest.raises(msgspec.ValidationError):
        picture_from(b'{"at": "never"}')


def test_a_story_is_wanted_until_it_is_here_and_anew_while_its_run_is_at_work() -> None:
    time = Time()
    board = Board(time)
    board.want(3)
    assert (board.wanted(), board.stories) == ([3], {})
    board.take_story(3, story(3, ended=False))
    assert (board.wanted(), board.stories) == ([], {3: story(3, ended=False)})
    time.now_s += REFRESH_S
    assert board.wanted() == [3]
    board.take_story(3, story(3, ended=True))
    time.now_s += REFRESH_S
    board.want(3)
    assert board.wanted() == []
    board.take(picture(story(3, ended=False)))  # a replay opened it again
    assert board.wanted() == [3]


@pytest.mark.parametrize("n_runs", [1, 4])
def test_stories_that_take_long_to_read_are_read_in_a_twentieth_of_the_time(n_runs: int) -> None:
    """Four seconds each, of runs at work that pages show for an hour."""
    time, reading_s = Time(), 0.0
    board, began_s = Board(time), time.now_s
    while time.now_s < began_s + 3_600:
        for run in range(1, n_runs + 1):
            board.want(run)
        for run in board.wanted():
            time.now_s, reading_s = time.now_s + 4.0, reading_s + 4.0
            board.take_story(run, story(run, ended=False), 4.0)
        time.now_s += 1.0
    read_anew_s = reading_s - n_runs * 4.0
    assert SHARE / 2 < read_anew_s / (time.now_s - began_s) <= SHARE


def test_what_no_page_asks_for_any_more_is_not_fetched() -> None:
    time = Time()
    board = Board(time)
    board.want(3)
    time.now_s += WANTED_S + 1
    assert board.wanted() == []


def test_a_number_of_no_run_is_known_as_that_and_looked_for_again_later() -> None:
    time = Time()
    board = Board(time)
    board.want(99)
    assert not board.is_unknown(99)
    board.take_story(99, None)
    assert (board.is_unknown(99), board.stories, board.wanted()) == (True, {}, [])
    time.now_s += REFRESH_S
    assert board.wanted() == [99]


@pytest.mark.parametrize("run", [0, -1, MAX_RUN + 1, 2**63, 10**20])
def test_a_number_that_no_run_can_have_is_unknown_at_once_and_nobody_is_asked(run: int) -> None:
    """In the answer to a picture a number beyond 64 bits would break the connection, at every picture."""
    board = Board(Time())
    board.want(run)
    assert (board.is_unknown(run), board.wanted()) == (True, [])
    board.want(MAX_RUN)
    assert (board.is_unknown(MAX_RUN), board.wanted()) == (False, [MAX_RUN])


@given(st.lists(st.tuples(st.sampled_from(["want", "bring", "ask", "wait"]), st.integers(1, 40)), max_size=200))
def test_it_holds_no_more_than_a_few_stories_whatever_pages_ask_for(steps: list[tuple[str, int]]) -> None:
    time = Time()
    board, brought = Board(time), story(1, ended=True)
    for step, run in steps:
        if step == "want":
            board.want(run)
            assert run in board.stories or board.is_unknown(run) or run in board.wanted()
        elif step == "bring":
            board.take_story(run, brought if run % 3 else None)
        elif step == "wait":
            time.now_s += run
        assert len(board.wanted()) <= MAX_STORIES
        assert len(board.stories) <= MAX_STORIES
        assert max(len(board._asked_s), len(board._stories), len(board._came_s)) <= 2 * MAX_STORIES


def test_each_picture_becomes_a_sample_and_the_latest_is_shown() -> None:
    time = Time()
    board = Board(time)
    for n in range(3):
        board.take(replace(picture(), at=100.0 + n))
    assert board.latest is not None
    assert board.latest.at == 102.0
    assert [sample.at for sample in board.series] == [100.0, 101.0, 102.0]
