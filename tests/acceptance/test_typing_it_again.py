"""The most natural thing is safe: the same command again goes on, waits, or skips, and every line is loaded once."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline

N_LINES = 8_000
CHUNKS = 8


def test_a_cancelled_run_goes_on_where_it_was(world: World, gate: Gate) -> None:
    source = write_numbers(world.directory / "n.txt", N_LINES)
    pipeline = write_pipeline(world.directory, "resumed", gate.body(3, 1_000))
    first = world.submit(pipeline, source, chunk_lines=1_000)
    world.wait_chunks_done(first.run_id, 3)
    cancelled = world.cluster.client.cancel(first.run_id)
    assert cancelled.state == "cancelled"
    assert world.finish(first.run_id).chunks_done == 3
    gate.open()

    second = world.submit(pipeline, source, chunk_lines=1_000)
    assert [load.joined for load in second.loads] == ["resumed"]
    assert any("goes on: 3 of" in notice for notice in second.notices)
    done = world.finish(second.run_id)
    assert (done.state, done.lines, done.loaded) == ("succeeded", N_LINES, N_LINES)
    assert done.own_lines == N_LINES - 3_000
    assert numbers(world.url, "resumed") == list(range(N_LINES))
    story = world.attempts(second.run_id)
    assert sum(attempts == [("succeeded", "nothing")] for attempts in story.values()) >= 3
    assert {attempts[-1] for attempts in story.values()} == {("succeeded", "nothing")}
    assert {cost for attempts in story.values() for _, cost in attempts} == {"nothing"}
    by_run = world.ask(
        "SELECT run_id, count(*) FROM protheon.attempt WHERE outcome = 'succeeded' AND task_id IN"
        " (SELECT id FROM protheon.task WHERE load_id = %s) GROUP BY run_id ORDER BY run_id",
        second.loads[0].load_id,
    )
    assert by_run == [(first.run_id, 3), (second.run_id, CHUNKS - 3)]  # what was loaded before was not loaded again
    assert world.findings(second.run_id) == ()
    assert world.cluster.client.get(first.run_id).state == "cancelled"


def test_two_runs_of_one_file_load_it_once_and_both_end(world: World, gate: Gate) -> None:
    source = write_numbers(world.directory / "n.txt", N_LINES)
    pipeline = write_pipeline(world.directory, "attached", gate.body(2, 1_000))
    first = world.submit(pipeline, source, chunk_lines=1_000)
    second = world.submit(pipeline, source, chunk_lines=500)
    assert [load.joined for load in second.loads] == ["attached"]
    assert any("--chunk-lines is ignored" in notice for notice in second.notices)
    gate.open()
    ended = [world.finish(run.run_id) for run in (first, second)]
    assert [(run.state, run.chunks, run.lines) for run in ended] == [("succeeded", CHUNKS, N_LINES)] * 2
    assert [run.own_lines for run in ended] == [N_LINES, 0]
    assert numbers(world.url, "attached") == list(range(N_LINES))


def test_cancelling_the_run_that_loads_hands_its_file_to_the_run_that_waits(world: World, gate: Gate) -> None:
    source = write_numbers(world.directory / "n.txt", N_LINES)
    pipeline = write_pipeline(world.directory, "heir", gate.body(2, 1_000))
    first = world.submit(pipeline, source, chunk_lines=1_000)
    world.wait_chunks_done(first.run_id, 2)
    second = world.submit(pipeline, source)
    world.cluster.client.cancel(first.run_id)
    gate.open()
    done = world.finish(second.run_id)
    assert (done.state, done.lines) == ("succeeded", N_LINES)
    assert world.finish(first.run_id).state == "cancelled"
    assert numbers(world.url, "heir") == list(range(N_LINES))
    assert world.attempts(second.run_id) == {chunk: [("succeeded", "nothing")] for chunk in range(1, CHUNKS + 1)}


def test_a_finished_file_its_copy_and_its_touched_self_are_skipped(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 500)
    pipeline = write_pipeline(world.directory, "skipped")
    assert world.load(pipeline, source).state == "succeeded"
    copy = world.directory / "another name.txt"
    shutil.copyfile(source, copy)
    os.utime(source, (1, 1))
    for path in (source, copy):
        again = world.submit(pipeline, path)
        assert [load.joined for load in again.loads] == ["skipped"]
        done = world.finish(again.run_id)
        assert (done.state, done.skipped_files, done.lines, done.own_lines) == ("succeeded", 1, 500, 0)
    assert numbers(world.url, "skipped") == list(range(500))


def test_one_file_under_two_paths_of_one_run_is_loaded_once(world: World) -> None:
    source = write_numbers(world.directory / "a.txt", 500)
    copy = world.directory / "b.txt"
    os.link(source, copy)
    run = world.submit(write_pipeline(world.directory, "twice"), source, copy)
    assert len({load.load_id for load in run.loads}) == 1
    assert any("loaded once" in notice for notice in run.notices)
    done = world.finish(run.run_id)
    assert (done.state, done.files, done.lines) == ("succeeded", 1, 500)
    assert numbers(world.url, "twice") == list(range(500))


@pytest.mark.slow
def test_again_loads_once_more_and_says_nothing_of_the_load_before(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 300)
    pipeline = write_pipeline(world.directory, "once_more")
    world.load(pipeline, source)
    run = world.submit(pipeline, source, again=True)
    assert [load.joined for load in run.loads] == ["new"]
    assert world.finish(run.run_id).loaded == 300
    assert numbers(world.url, "once_more") == sorted([*range(300)] * 2)
