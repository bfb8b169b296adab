"""Pictures of a real cluster: they come once a second, move with the work, and whatever dies or hangs holds up nobody."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest

from protheon_dask.errors import ProtheonError
from protheon_dask.model import STAGES, RunState
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, ClusterPicture
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.pictures import Shown

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

SETTINGS = {"workers": 2}
CHUNK_LINES = 100


@pytest.fixture
def shown(world: World) -> Shown:
    return Shown(world.cluster.client.info().scheduler_address)


def picture(shown: Shown) -> ClusterPicture | None:
    """The picture that the dashboard has; None while there is no scheduler."""
    try:
        return shown.latest()
    except (OSError, ProtheonError):
        return None


def scheduler_pid(world: World) -> int:
    tether = psutil.Process(world.cluster._processes["scheduler"].process.pid)
    return next(it.pid for it in tether.children(recursive=True) if it.cmdline()[1:4] == ["-m", "dask", "scheduler"])


def test_a_picture_moves_while_a_run_is_at_work_and_has_the_stages_of_its_workers(world: World, shown: Shown, gate: Gate) -> None:
    lines = write_numbers(world.directory / "n.txt", 10 * CHUNK_LINES)
    run = world.submit(write_pipeline(world.directory, "moving", gate.body(3, CHUNK_LINES)), lines, chunk_lines=CHUNK_LINES).run_id

    def held() -> ClusterPicture | None:
        """Three chunks are in and both workers are held up in the pipeline: the samples tell so, and the ledger, read at another time."""
        now = picture(shown)
        if now is None:
            return None
        busy = [worker for worker in now.workers if worker.status == BUSY and worker.stage == "transform"]
        return now if len(busy) == 2 == now.totals.tasks_running and now.totals.lines >= 3 * CHUNK_LINES else None

    first = wait_until(held)
    assert first.missing == ()
    assert {worker.run for worker in first.workers} == {run}
    assert len({worker.task_id for worker in first.workers}) == 2
    assert [statistics.run for statistics in first.runs] == [run]
    assert first.runs[0].state is RunState.RUNNING
    assert first.look_ahead_chunks == first.totals.tasks_ready == 5
    assert first.oldest_ready_s is not None
    assert first.oldest_ready_s > 0
    assert first.workspace_bytes > 0

    def later() -> ClusterPicture | None:
        """Both have been in that stage for longer, of which the picture counts the seconds, and what was before is out of its window."""
        now = picture(shown)
        return (
            now
            if now is not None and now.at > first.at + 3 and (now.bound or "").startswith("bound by the workers' CPU (transform)")
            else None
        )

    second = wait_until(later)
    assert second.stage_seconds["transform"] > first.stage_seconds["transform"]
    assert set(second.stage_seconds) == set(STAGES)
    assert min(worker.stage_s for worker in second.workers) > min(worker.stage_s for worker in first.workers)
    assert min(worker.utilization for worker in second.workers) > 0.5
    assert shown.n_samples() >= 3

    gate.open()
    assert world.finish(run).state is RunState.SUCCEEDED

    def over() -> ClusterPicture | None:
        """All is in, and the workers have told so: they are asked every other second."""
        now = picture(shown)
        if now is None or now.runs[0].state is not RunState.SUCCEEDED or now.totals.tasks_succeeded < 10:
            return None
        is_told = all(worker.status == IDLE for worker in now.workers) and sum(worker.tasks_completed for worker in now.workers) == 10
        return now if is_told else None

    last = wait_until(over)
    assert (last.totals.lines, last.totals.rows, last.totals.tasks_ready, last.totals.tasks_running) == (1000, 1000, 0, 0)
    assert (last.totals.files, last.totals.files_completed) == (1, 1)
    assert last.totals.raw_bytes == lines.stat().st_size
    assert last.totals.wire_bytes > 0
    assert last.oldest_ready_s is None


@pytest.mark.slow
def test_a_worker_that_is_killed_is_shown_as_lost_until_it_is_back_and_why_its_chunk_was_tried_again(
    world: World, shown: Shown, gate: Gate
) -> None:
    n_crashed = wait_until(lambda: picture(shown)).totals.retries_by_cause.get("crashed", 0)
    lines = write_numbers(world.directory / "k.txt", 4 * CHUNK_LINES)
    run = world.submit(write_pipeline(world.directory, "killed", gate.body(0, CHUNK_LINES)), lines, chunk_lines=CHUNK_LINES).run_id
    wait_until(lambda: (now := picture(shown)) and sum(worker.status == BUSY for worker in now.workers) == 2)
    _, pid = world.cluster.worker_pids()[0]
    nannies = psutil.Process(pid).parent()
    assert nannies is not None
    nannies.suspend()  # else it may be back before anybody has asked
    try:
        os.kill(pid, signal.SIGKILL)
        lost = wait_until(lambda: (now := picture(shown)) and [worker for worker in now.workers if worker.status == LOST])
    finally:
        nannies.resume()
    assert [(worker.task_id, worker.stage, worker.lines_per_s) for worker in lost] == [(None, None, 0.0)]
    gate.open()
    assert world.finish(run).state is RunState.SUCCEEDED

    def charged() -> ClusterPicture | None:
        """The totals tell of the attempt that crashed."""
        now = picture(shown)
        return now if now is not None and now.totals.retries_by_cause.get("crashed", 0) > n_crashed else None

    after = wait_until(charged)
    assert after.totals.retries == sum(after.totals.retries_by_cause.values())
    wait_until(lambda: (now := picture(shown)) and [worker.status for worker in now.workers] == [IDLE, IDLE])


def test_a_scheduler_that_stands_still_holds_up_no_run_and_gets_pictures_again(world: World, shown: Shown, gate: Gate) -> None:
    lines = write_numbers(world.directory / "s.txt", 4 * CHUNK_LINES)
    run = world.submit(write_pipeline(world.directory, "still", gate.body(2, CHUNK_LINES)), lines, chunk_lines=CHUNK_LINES).run_id
    world.wait_chunks_done(run, 2)
    pid = scheduler_pid(world)
    os.kill(pid, signal.SIGSTOP)
    try:
        gate.open()  # both workers have a chunk in hand: they commit while the scheduler says nothing
        wait_until(lambda: world.ask("SELECT count(*) FROM public.still") == [(4 * CHUNK_LINES,)])
        assert world.cluster.client.get(run).chunks_done == 4  # the broker answers, and sees what was committed
    finally:
        with suppress(ProcessLookupError):  # on a slow machine it was frozen for so long that it was ended, and started anew
            os.kill(pid, signal.SIGCONT)
    thawed_at = time.time()
    assert world.finish(run).state is RunState.SUCCEEDED
    wait_until(lambda: (now := picture(shown)) and now.at > thawed_at and now.missing == ())
    assert sorted(numbers(world.url, "still")) == list(range(4 * CHUNK_LINES))


@pytest.mark.slow
def test_a_scheduler_that_was_killed_has_pictures_of_ended_runs_again_and_their_stories(world: World, shown: Shown) -> None:
    lines = write_numbers(world.directory / "e.txt", 2 * CHUNK_LINES)
    run = world.load(write_pipeline(world.directory, "ended"), lines, chunk_lines=CHUNK_LINES).run
    os.kill(scheduler_pid(world), signal.SIGKILL)

    def shows_it() -> ClusterPicture | None:
        """The new scheduler was told of the run that had ended, and nothing is missing."""
        now = picture(shown)
        return now if now is not None and now.missing == () and run in [it.run for it in now.runs] else None

    again = wait_until(shows_it, 60)
    assert again.runs[0].lines == 2 * CHUNK_LINES
    story = wait_until(lambda: shown.story(run))
    assert (story.statistics.run, story.n_attempts) == (run, 2)
    assert story.ended_at is not None
    wait_until(lambda: shown.is_unknown(10**9))
