"""A second host that is lost: out of memory, without its nanny, killed with all its processes, and cut off from everybody."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.hosts import CutOffHost, another_host, cut_off_host, needs_namespaces

SETTINGS = {"lease_s": 6, "renew_s": 1, "exit_grace_s": 5, "stall_s": 60}
pytestmark = needs_namespaces


@pytest.fixture
def held(world: World) -> str:
    """Statements with which a chunk waits on any host but this one, until its file is there."""
    path = str(world.directory / "open")
    return f"import socket\nwhile socket.gethostname() == 'second' and not os.path.exists({path!r}):\n    time.sleep(0.05)"


def story(world: World, run_id: int) -> list[tuple[bool, str, str]]:
    """What happened on the second host, and after it elsewhere to the same chunks."""
    return world.ask(
        "SELECT host = 'second', outcome, cost FROM protheon.attempt WHERE run_id = %s AND task_id IN"
        " (SELECT task_id FROM protheon.attempt WHERE host = 'second') ORDER BY attempt_no",
        run_id,
    )


def claimed_there(world: World, run_id: int) -> bool:
    return bool(world.ask("SELECT 1 FROM protheon.attempt WHERE run_id = %s AND host = 'second' AND ended_at IS NULL", run_id))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nanny", "tree"])
def test_a_host_whose_nanny_or_every_process_is_killed_costs_a_loss_within_seconds(world: World, held: str, what: str) -> None:
    with another_host(world.cluster, "second", world.directory) as second:
        source = write_numbers(world.directory / "n.txt", 3_000)
        run = world.submit(write_pipeline(world.directory, f"lost_{what}", held), source, chunk_lines=1_000)
        wait_until(lambda: claimed_there(world, run.run_id))
        workers = second.worker_pids()
        killed_s = time.monotonic()
        if what == "tree":
            second.end()
        else:
            os.kill(second.nanny_pid(), signal.SIGKILL)
        done = world.finish(run.run_id)
        took_s = time.monotonic() - killed_s
    assert (done.state, done.lines) == ("succeeded", 3_000)
    assert story(world, done.run) == [(True, "crashed", "loss"), (False, "succeeded", "nothing")]
    assert numbers(world.url, f"lost_{what}") == list(range(3_000))
    assert took_s < SETTINGS["lease_s"] + 10
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers))


@pytest.mark.slow
def test_a_process_that_its_nanny_ends_for_its_memory_costs_a_crash_and_the_retry_goes_to_another_host(world: World) -> None:
    """The second host eats what the first chunk there gives it; the others wait for that, so that it has one."""
    eating = str(world.directory / "eating")
    body = f"""import socket
if socket.gethostname() != 'second':
    while not os.path.exists({eating!r}):
        time.sleep(0.05)
else:
    eaten = [open({eating!r}, 'w').close()]
    while len(eaten) < 1_000:
        eaten.append(os.urandom(1 << 20))
        time.sleep(0.01)"""
    with another_host(world.cluster, "second", world.directory, options=("--memory-limit", "450MiB")):
        source = write_numbers(world.directory / "n.txt", 3_000)
        done = world.load(write_pipeline(world.directory, "eats", body), source, chunk_lines=1_000)
    assert (done.state, done.lines) == ("succeeded", 3_000)
    assert story(world, done.run) == [(True, "crashed", "crash"), (False, "succeeded", "nothing")]
    assert numbers(world.url, "eats") == list(range(3_000))


@pytest.fixture
def cut_off(world: World) -> Iterator[CutOffHost]:
    with cut_off_host(world.cluster, world.url, "second", world.directory) as made:
        yield made


def test_a_host_whose_network_is_gone_costs_a_loss_that_is_given_back_when_it_is_heard_of_again(
    world: World, held: str, cut_off: CutOffHost
) -> None:
    """No process ends and no connection is reset: only its lease tells."""
    source = write_numbers(world.directory / "n.txt", 3_000)
    run = world.submit(write_pipeline(world.directory, "cut", held), source, chunk_lines=1_000)
    wait_until(lambda: claimed_there(world, run.run_id))
    cut_off.link("down")
    cut_s = time.monotonic()
    done = world.finish(run.run_id)
    assert (done.state, done.lines) == ("succeeded", 3_000)
    assert time.monotonic() - cut_s < SETTINGS["lease_s"] + 20
    assert story(world, done.run) == [(True, "expired", "loss"), (False, "succeeded", "nothing")]
    cut_off.link("up")
    Path(world.directory / "open").touch()
    wait_until(lambda: world.ask("SELECT 1 FROM protheon.attempt WHERE run_id = %s AND cost = 'loss' AND given_back", done.run))
    assert numbers(world.url, "cut") == list(range(3_000))
    assert world.findings(done.run) == ()
