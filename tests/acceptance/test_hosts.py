"""Two hosts, of which one does not work: its failures are its own, the run goes on elsewhere, and people are told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from distributed import Client

from protheon_dask.run import api
from protheon_dask.run.dask_link import ASK_S
from tests.acceptance.conftest import World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.hosts import another_host, needs_namespaces

SETTINGS = {"lease_s": 6, "renew_s": 1, "exit_grace_s": 2, "stall_s": 6, "backoff_base_s": 0.2}
ON_BROKEN = "import socket\nif socket.gethostname() == 'broken':\n    "
pytestmark = needs_namespaces


@pytest.fixture(scope="module", autouse=True)
def _two_hosts(module_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Beside the two local workers one on a host that is called ``broken``."""
    with another_host(module_world.cluster, "broken", tmp_path_factory.mktemp("broken")):
        yield


@pytest.fixture(autouse=True)
def _all_are_there_and_nobody_is_aside(world: World) -> Iterator[None]:
    with Client(world.cluster.client.info().scheduler_address, set_as_default=False) as dask:
        wait_until(lambda: len(dask.nthreads()) == 3, 60)  # a test before ended some
    time.sleep(ASK_S + 0.5)  # the coordinator knows the new ones too
    yield
    world.ask("DELETE FROM protheon.host_aside RETURNING host")


def charged(world: World, run_id: int) -> list[tuple[int, int]]:
    """Tasks of a run that are still charged with something."""
    return world.ask(
        "SELECT task.failures, task.crashes FROM protheon.task JOIN protheon.run_load USING (load_id)"
        " WHERE run_load.run_id = %s AND task.failures + task.crashes > 0",
        run_id,
    )


def on_broken(world: World, run_id: int) -> list[tuple[str, str, bool]]:
    return world.ask("SELECT outcome, cost, given_back FROM protheon.attempt WHERE run_id = %s AND host = 'broken'", run_id)


def test_a_host_on_which_everything_fails_is_set_aside_its_failures_given_back_and_tried_again(world: World) -> None:
    body = ON_BROKEN + "raise MemoryError('no disk here')\nif n % 100 == 0:\n    time.sleep(0.2)"
    source = write_numbers(world.directory / "n.txt", 4_000)
    run = world.submit(write_pipeline(world.directory, "black_hole", body), source, chunk_lines=100)
    wait_until(lambda: world.ask("SELECT 1 FROM protheon.host_aside"))
    told = wait_until(lambda: world.cluster.client.get(run.run_id).reason)
    assert "host broken is set aside until" in told
    assert "chunks in a row failed there and on no other host, the last: no disk here" in told
    assert "host broken is set aside" in (api.run_statistics(world.url, run.run_id).reason or "")
    done = world.finish(run.run_id)
    assert (done.state, done.lines, done.dead_letters) == ("succeeded", 4_000, 0)
    assert numbers(world.url, "black_hole") == list(range(4_000))
    bad = on_broken(world, run.run_id)
    assert 3 <= len(bad) <= 12  # three in a row, and what was under way
    assert set(bad) == {("failed", "failure", True)}
    assert charged(world, run.run_id) == []

    world.ask("UPDATE protheon.host_aside SET until_at = now() RETURNING host")  # five minutes later
    again = world.load(write_pipeline(world.directory, "still_black"), write_numbers(world.directory / "m.txt", 2_000), chunk_lines=100)
    assert again.state == "succeeded"
    wait_until(lambda: world.ask("SELECT host FROM protheon.host_aside") == [])  # one chunk was well: it is a host like any other


@pytest.mark.slow
def test_a_host_that_still_fails_when_it_is_tried_costs_one_chunk(world: World) -> None:
    world.ask("INSERT INTO protheon.host_aside VALUES ('broken', 'before', now(), now()) RETURNING host")
    body = ON_BROKEN + "raise MemoryError('still no disk')\nif n % 100 == 0:\n    time.sleep(0.1)"
    source = write_numbers(world.directory / "n.txt", 2_000)
    done = world.load(write_pipeline(world.directory, "tried", body), source, chunk_lines=100)
    assert done.state == "succeeded"
    assert on_broken(world, done.run) == [("failed", "failure", True)]
    assert charged(world, done.run) == []
    assert world.ask("SELECT reason, until_at > now() + interval '4 minutes' FROM protheon.host_aside") == [
        ("tried again: still no disk", True)
    ]


def test_a_host_that_lacks_a_module_is_set_aside_and_a_run_for_which_all_do_is_paused(world: World) -> None:
    body = ON_BROKEN + "import a_module_of_few_hosts\nif n % 100 == 0:\n    time.sleep(0.1)"
    source = write_numbers(world.directory / "n.txt", 2_000)
    done = world.load(write_pipeline(world.directory, "few", body), source, chunk_lines=100)
    assert done.state == "succeeded"
    [(reason,)] = world.ask("SELECT reason FROM protheon.host_aside")
    assert reason == "it lacks what other hosts have: No module named 'a_module_of_few_hosts'"
    assert set(on_broken(world, done.run)) == {("failed", "failure", True)}
    assert charged(world, done.run) == []
    world.ask("DELETE FROM protheon.host_aside RETURNING host")

    paused = world.load(write_pipeline(world.directory, "nowhere", "import a_module_of_no_host"), source, chunk_lines=100)
    assert paused.state == "paused"
    assert paused.reason == "on every host: No module named 'a_module_of_no_host'"
    wait_until(lambda: world.ask("SELECT 1 FROM protheon.attempt WHERE ended_at IS NULL") == [])
    assert world.ask("SELECT 1 FROM protheon.host_aside") == []
    assert world.cluster.client.cancel(paused.run).state == "cancelled"


def test_a_chunk_that_kills_its_process_on_every_host_is_dead_and_neighbours_that_wait_with_the_same_workers_are_not_charged(
    world: World,
) -> None:
    """While a retry prefers another host, or one is aside, tasks wait with workers and die with them: they were not begun."""
    world.ask(
        "INSERT INTO protheon.host_aside VALUES ('elsewhere', 'so that tasks are placed', now(), now() + interval '1 hour') RETURNING host"
    )
    body = "if n == 1_050:\n    os._exit(9)\nif n % 100 == 0:\n    time.sleep(0.05)"
    done = world.load(write_pipeline(world.directory, "poison", body), write_numbers(world.directory / "n.txt", 2_000), chunk_lines=100)
    assert (done.state, done.chunks_dead, done.lines) == ("incomplete", 1, 1_900)
    story = world.attempts(done.run)
    assert story.pop(11) == [("crashed", "crash")] * 3
    assert set(map(tuple, story.values())) == {(("succeeded", "nothing"),)}
    assert world.ask("SELECT host FROM protheon.host_aside") == [("elsewhere",)]


def test_a_retry_goes_to_another_host_than_the_one_its_last_attempt_failed_on(world: World) -> None:
    """Two chunks fail once, wherever they are first."""
    mark = world.directory / "seen"
    mark.mkdir()
    body = (
        f"if n in (0, 500):\n    try:\n        os.close(os.open({str(mark)!r} + '/' + str(n), os.O_CREAT | os.O_EXCL))\n"
        "        failed = True\n    except FileExistsError:\n        failed = False\n    if failed:\n        raise MemoryError('once')"
    )
    done = world.load(write_pipeline(world.directory, "once", body), write_numbers(world.directory / "n.txt", 1_000), chunk_lines=100)
    assert (done.state, done.retries) == ("succeeded", 2)
    rows = world.ask("SELECT task_id, array_agg(host ORDER BY attempt_no) FROM protheon.attempt WHERE run_id = %s GROUP BY 1", done.run)
    assert sorted(len(found) for _, found in rows) == [1] * 8 + [2] * 2
    assert [found for _, found in rows if len(found) == 2 and found[0] == found[1]] == []
