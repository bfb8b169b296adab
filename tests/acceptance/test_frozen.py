"""Workers that freeze at the worst places, for ever or for a while: the next attempt commits in time, and nothing stale is written."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import World, new_world, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.failpoints import Switch, armed_children

SETTINGS = {"lease_s": 4, "renew_s": 1, "exit_grace_s": 3, "complete_grace_s": 3, "stall_s": 60}
MARGIN_S = 20.0  # DESIGN: the next attempt commits this long after what is to be waited for
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with armed_children(tmp_path_factory.mktemp("points") / "marks") as made:
        yield made


@pytest.fixture(scope="module")
def module_world(switch: Switch, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Instead of the directory's: its processes obey the switch."""
    del switch
    with new_world(postgres_url, tmp_path_factory.mktemp("world"), **SETTINGS) as made:
        yield made


@pytest.mark.parametrize(
    ("point", "name", "waited_s"),
    [
        ("copy.mid", "copying", SETTINGS["lease_s"]),
        ("complete.after", "completing", SETTINGS["lease_s"] + SETTINGS["complete_grace_s"]),
    ],
)
def test_a_worker_that_freezes_is_succeeded_in_time_and_writes_nothing_when_it_thaws(
    world: World, switch: Switch, point: str, name: str, waited_s: float
) -> None:
    """In the middle of COPY its backend waits for a client that says nothing; after complete it holds the task's row as well."""
    source = write_numbers(world.directory / "n.txt", 1_000)
    switch.arm(f"{point}=stop*1")
    run = world.submit(write_pipeline(world.directory, name), source)
    [frozen] = wait_until(lambda: switch.fired(point))
    frozen_s = time.monotonic()
    try:
        wait_until(lambda: len(numbers(world.url, name)) == 1_000, waited_s + MARGIN_S)
        took_s = time.monotonic() - frozen_s
        assert psutil.Process(frozen).status() == psutil.STATUS_STOPPED
    finally:
        os.kill(frozen, signal.SIGCONT)
    print(f"{point}: the next attempt committed {took_s:.1f} s after the freeze")
    assert waited_s - 2 * SETTINGS["renew_s"] < took_s < waited_s + MARGIN_S
    done = world.finish(run.run_id)
    assert (done.state, done.lines, done.retries) == ("succeeded", 1_000, 1)
    story = "SELECT outcome, cost, given_back FROM protheon.attempt WHERE run_id = %s ORDER BY attempt_no"
    given_back = [("expired", "loss", True), ("succeeded", "nothing", False)]
    wait_until(lambda: world.ask(story, run.run_id) == given_back)  # the frozen one has found its lease lost
    assert psutil.Process(frozen).status() != psutil.STATUS_STOPPED
    assert numbers(world.url, name) == list(range(1_000))
    assert world.findings(run.run_id) == ()


@pytest.mark.slow
def test_a_frozen_worker_and_one_whose_interpreter_is_held_for_ever_are_restarted_and_their_slots_are_back(
    world: World, switch: Switch
) -> None:
    """With both slots lost the run ends only because they come back. Dask itself would look after 30 to 60 s."""
    mark = str(world.directory / "held")
    body = (
        f"if n == 1_000 and not os.path.exists({mark!r}):\n    open({mark!r}, 'w').close()\n"
        "    import ctypes\n    ctypes.PyDLL(None).pause()"
    )
    before = {pid for _, pid in world.cluster.worker_pids()}
    switch.arm("begin.after=stop*1")  # one of the two, whichever comes first
    started_s = time.monotonic()
    source = write_numbers(world.directory / "n.txt", 2_000)
    run = world.submit(write_pipeline(world.directory, "slots", body), source, chunk_lines=1_000)
    wait_until(lambda: switch.fired("begin.after"))
    done = world.finish(run.run_id)
    assert (done.state, done.lines) == ("succeeded", 2_000)
    assert time.monotonic() - started_s < 45
    assert numbers(world.url, "slots") == list(range(2_000))
    wait_until(lambda: len(now := {pid for _, pid in world.cluster.worker_pids()}) == 2 and before.isdisjoint(now))
    assert not any(psutil.pid_exists(pid) for pid in before)


@pytest.mark.slow
def test_a_worker_that_sleeps_beyond_its_lease_twenty_one_times_on_one_task_makes_no_dead_letter(postgres_url: str, tmp_path: Path) -> None:
    """One worker, one slow chunk, as a laptop that is closed again and again: 20 losses that stood would be its end."""
    settings = {"lease_s": 3, "renew_s": 0.5, "exit_grace_s": 2.9, "stall_s": 60}
    fast = tmp_path / "fast"
    body = f"if not os.path.exists({str(fast)!r}):\n    time.sleep(0.05)"
    with new_world(postgres_url, tmp_path, workers=1, **settings) as world:
        run = world.submit(write_pipeline(tmp_path, "laptop", body), write_numbers(tmp_path / "n.txt", 1_000))
        [(_, pid)] = world.cluster.worker_pids()
        for n in range(1, 22):
            wait_until(lambda: world.ask("SELECT 1 FROM protheon.attempt WHERE ended_at IS NULL"))
            os.kill(pid, signal.SIGSTOP)
            try:
                wait_until(partial(has_ended, world, n))
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(partial(has_ended, world, n, given_back=True))
        fast.touch()
        done = world.finish(run.run_id)
        assert (done.state, done.lines, done.dead_letters) == ("succeeded", 1_000, 0)
        assert world.ask("SELECT losses FROM protheon.task") == [(0,)]
        assert numbers(world.url, "laptop") == list(range(1_000))


def has_ended(world: World, attempt_no: int, *, given_back: bool = False) -> bool:
    query = "SELECT 1 FROM protheon.attempt WHERE attempt_no = %s AND ended_at IS NOT NULL AND (given_back OR NOT %s)"
    return bool(world.ask(query, attempt_no, given_back))
