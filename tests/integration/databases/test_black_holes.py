"""A network that swallows what is sent to PostgreSQL, in the middle of a load: nobody is told that anything is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest

from tests.acceptance.conftest import Gate, World
from tests.chaos.proxy import Direction, Proxy
from tests.fixtures.cluster import local_cluster, wait_until
from tests.fixtures.postgres import fresh_database
from tests.integration.databases.outages import assert_whole, begin, kill_at_work, wait_both_at_work, wait_reason

LEASE_S = 3.0
SETTINGS = {"lease_s": LEASE_S, "renew_s": 1, "exit_grace_s": 2, "stall_s": 20}


@pytest.fixture(scope="module")
def hole(postgres_url: str) -> Iterator[Proxy]:
    place = urlsplit(postgres_url)
    assert place.hostname is not None
    assert place.port is not None
    with Proxy((place.hostname, place.port)) as between:
        yield between


@pytest.fixture(scope="module")
def behind(hole: Proxy, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster that reaches its database through the proxy; the test itself asks the server."""
    directory = tmp_path_factory.mktemp("behind")
    with fresh_database(postgres_url) as url:
        through = urlunsplit(urlsplit(url)._replace(netloc=f"{urlsplit(url).username}@127.0.0.1:{hole.port}"))
        with local_cluster(directory / "home", through, workers=2, **SETTINGS) as cluster:
            yield World(cluster, url, directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("directions", "ends_with"),
    [
        ([Direction.UP, Direction.DOWN], "what was kept"),
        pytest.param([Direction.DOWN], "new connections", marks=pytest.mark.slow),
        pytest.param([Direction.UP], "new connections", marks=pytest.mark.slow),
    ],
)
def test_a_database_that_cannot_be_reached_is_waited_for_and_nobody_is_charged(
    behind: World, hole: Proxy, gate: Gate, tmp_path: Path, directions: list[Direction], ends_with: str
) -> None:
    """Longer than a lease, in which neither a worker nor the broker is heard of."""
    name = "_".join(["hole", *directions])
    run_id = begin(behind, name, gate, tmp_path)
    for direction in directions:
        hole.hold_back(direction)
    began_s = time.monotonic()
    gate.open()
    try:
        told = wait_reason(behind, run_id, "PostgreSQL")
        assert "does not answer" in told
        time.sleep(max(0.0, began_s + 2 * LEASE_S - time.monotonic()))  # all leases run out meanwhile
    finally:
        if ends_with == "new connections":
            hole.cut()
        for direction in directions:
            hole.let_through(direction)
    assert_whole(behind, behind.finish(run_id), name)


@pytest.mark.slow
def test_a_worker_that_dies_while_the_database_cannot_be_reached_is_noticed_when_it_can(
    behind: World, hole: Proxy, gate: Gate, tmp_path: Path
) -> None:
    run_id = begin(behind, "hole_and_crash", gate, tmp_path)
    wait_both_at_work(behind, run_id)
    for direction in Direction:
        hole.hold_back(direction)
    try:
        kill_at_work(behind, run_id)
        gate.open()
        wait_reason(behind, run_id, "does not answer")
    finally:
        for direction in Direction:
            hole.let_through(direction)
    assert_whole(behind, behind.finish(run_id), "hole_and_crash", n_crashes=1)


def test_a_machine_that_sleeps_longer_than_a_lease_is_charged_nothing(behind: World, gate: Gate, tmp_path: Path) -> None:
    """Broker and workers alike; the broker wakes first, and finds the leases of all run out."""
    run_id = begin(behind, "asleep", gate, tmp_path)
    wait_until(lambda: len(behind.cluster.worker_pids()) == 2)
    frozen = of_cluster(behind)
    brokers = [process for process in frozen if "protheon_dask.run.broker" in process.cmdline()]
    for process in frozen:
        process.suspend()
    try:
        time.sleep(2 * LEASE_S)
        for process in brokers:
            process.resume()
        time.sleep(LEASE_S / 2)  # it looks at the leases
        gate.open()
    finally:
        for process in frozen:
            process.resume()
    assert_whole(behind, behind.finish(run_id), "asleep")


def of_cluster(world: World) -> list[psutil.Process]:
    """Every process of the cluster but those that tie them to this one."""
    home, tether = world.cluster.settings.home, "protheon_dask.run.tether"
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.environ().get("PROTHEON_HOME") == home and tether not in process.cmdline():
                found.append(process)
    return found
