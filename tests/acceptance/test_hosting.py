"""``protheon worker``: joins a master, goes on through all that happens to it, and leaves without doing anything twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import HostView
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.hosting import WorkerHost, worker_host

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]

SETTINGS = {"lease_s": 10, "renew_s": 2, "stall_s": 30, "exit_grace_s": 4}
CHUNK_LINES = 100
SLEEP_S = 33.0  # above hosting.SLEPT_S and the lease: no shorter stop is told from a busy machine


@pytest.fixture(scope="module")
def joined(module_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """A host of two workers, beside the master's own one."""
    with worker_host(
        tmp_path_factory.mktemp("host"), address(module_world), "--workers", "2", "--name", "second", env=env(module_world)
    ) as host:
        host.wait_said("joined the master")
        yield host


def address(world: World) -> str:
    return world.cluster.client.address


def env(world: World) -> dict[str, str]:
    """What a host has to be given itself, where it shows no certificate."""
    return {"PROTHEON_DATABASE_URL": world.url, "PROTHEON_KEY_FILE": str(world.cluster._home / "cluster.key")}


def attempts(world: World, run_id: int) -> list[tuple[str, str, str]]:
    """Host, outcome and cost of a run's attempts."""
    return world.ask("SELECT host, outcome, cost FROM protheon.attempt WHERE run_id = %s", run_id)


def hosts_of(world: World, run_id: int) -> set[str]:
    return {host for host, outcome, _ in attempts(world, run_id) if outcome == "succeeded"}


def test_a_host_joins_and_shares_the_work_under_its_name(world: World, joined: WorkerHost) -> None:
    pipeline = write_pipeline(world.directory, "shared", "time.sleep(0.002)")
    run_id = world.submit(pipeline, write_numbers(world.directory / "n.txt", 2_000), chunk_lines=CHUNK_LINES).run_id
    assert world.finish(run_id).state == "succeeded"
    assert "second" in hosts_of(world, run_id)
    assert "as second, with 2 workers, in plaintext" in joined.said


def test_workers_whose_scheduler_was_killed_are_back_by_themselves(world: World, joined: WorkerHost) -> None:
    pipeline = write_pipeline(world.directory, "again", "time.sleep(0.005)")
    run_id = world.submit(pipeline, write_numbers(world.directory / "n.txt", 3_000), chunk_lines=CHUNK_LINES).run_id
    wait_until(lambda: "second" in hosts_of(world, run_id))
    backs = joined.said.count("back after")
    [scheduler] = psutil.Process(world.cluster._processes["scheduler"].process.pid).children()
    scheduler.kill()
    joined.wait_said("lost: ")
    joined.wait_said("back after", backs + 1, 90)
    assert world.finish(run_id).state == "succeeded"
    assert numbers(world.url, "again") == list(range(3_000))
    assert {cost for _, _, cost in attempts(world, run_id)} <= {"nothing", "loss"}


@pytest.mark.parametrize("orphaned", [False, True], ids=["killed", "frozen, and its tether killed"])
def test_a_host_whose_processes_were_killed_starts_them_again(joined: WorkerHost, orphaned: bool) -> None:
    backs = joined.said.count("back after")
    [command] = joined.processes(r"^\S*python\S* -m dask worker")
    if orphaned:
        command.suspend()
        command.parent().kill()  # type: ignore[union-attr]  # it has one
    else:
        command.kill()
    joined.wait_said("back after", backs + 1, 90)


def test_a_machine_that_slept_longer_than_a_lease_joins_anew(world: World, joined: WorkerHost) -> None:
    """All of its processes stand still, as they do when a lid is closed; what it had in hand is another host's meanwhile."""
    pipeline = write_pipeline(world.directory, "slept", "time.sleep(0.01)")
    run_id = world.submit(pipeline, write_numbers(world.directory / "n.txt", 4_000), chunk_lines=CHUNK_LINES).run_id
    wait_until(lambda: "second" in {host for host, _, _ in attempts(world, run_id)})
    everything, backs = [psutil.Process(joined.process.pid), *joined.processes()], joined.said.count("back after")
    for process in everything:
        process.suspend()
    time.sleep(SLEEP_S)
    for process in everything:
        process.resume()
    joined.wait_said("this machine slept for")
    joined.wait_said("back after", backs + 1, 90)
    assert world.finish(run_id).state == "succeeded"
    assert numbers(world.url, "slept") == list(range(4_000))
    assert world.findings(run_id) == ()


@pytest.mark.timeout(400)  # the scheduler drops them after 30 to 60 s and 30 s more (PITFALLS 3), this host a minute later
def test_workers_that_are_frozen_with_their_nannies_are_started_again(joined: WorkerHost) -> None:
    """The scheduler drops them after its worker-ttl, and nobody on this host would notice."""
    backs = joined.said.count("back after")
    for process in joined.processes(r"dask worker|spawn_main"):
        if "run.tether" not in " ".join(process.cmdline()):
            process.suspend()
    joined.wait_said("has known no worker of this host for", 1, 240)
    joined.wait_said("back after", backs + 1, 90)


@pytest.mark.parametrize("ends", [True, False], ids=["ends within the grace", "takes longer than the grace"])
def test_a_drained_host_runs_nothing_twice(world: World, gate: Gate, tmp_path: Path, ends: bool) -> None:
    """The chunk in hand ends or is given back at no cost; nobody else begins it before that."""
    pipeline = write_pipeline(world.directory, f"drained_{int(ends)}", gate.body(0, CHUNK_LINES))
    with worker_host(tmp_path / "third", address(world), "--workers", "1", "--name", "third", env=env(world)) as host:
        host.wait_said("joined the master")
        run_id = world.submit(pipeline, write_numbers(world.directory / "n.txt", 1_000), chunk_lines=CHUNK_LINES).run_id
        wait_until(lambda: "third" in {host for host, _, _ in attempts(world, run_id)})
        host.signal(signal.SIGTERM)
        host.wait_said("draining")
        if ends:
            threading.Timer(1.0, gate.open).start()
        assert host.wait_code() == 0, host.told()
        assert "drained: nothing" in host.said
    [(outcome, cost)] = [(outcome, cost) for name, outcome, cost in attempts(world, run_id) if name == "third"]
    assert (outcome, cost) == (("succeeded" if ends else "released"), "nothing")
    gate.open()
    assert world.finish(run_id).state == "succeeded"
    assert numbers(world.url, f"drained_{int(ends)}") == list(range(1_000))
    assert world.findings(run_id) == ()
    assert len(attempts(world, run_id)) == 10 + (not ends), "each chunk once, and the one that was given back once more"


def test_asked_twice_a_host_ends_at_once(world: World, gate: Gate, tmp_path: Path) -> None:
    pipeline = write_pipeline(world.directory, "hurried", gate.body(0, CHUNK_LINES))
    with worker_host(tmp_path / "fourth", address(world), "--workers", "1", "--name", "fourth", env=env(world)) as host:
        host.wait_said("joined the master")
        run_id = world.submit(pipeline, write_numbers(world.directory / "n.txt", 500), chunk_lines=CHUNK_LINES).run_id
        wait_until(lambda: "fourth" in {host for host, _, _ in attempts(world, run_id)})
        host.signal(signal.SIGINT)
        host.wait_said("draining")
        host.signal(signal.SIGINT)
        assert host.wait_code() == 130, host.told()
    gate.open()
    assert world.finish(run_id).state == "succeeded"
    assert numbers(world.url, "hurried") == list(range(500))


def test_dasks_own_command_joins_by_its_preload(world: World, tmp_path: Path) -> None:
    """The plain way of docs/hosts.md; without --nthreads 1 it would take a thread for each core."""
    scheduler = world.cluster.client.info().scheduler_address
    with plain_worker(tmp_path, scheduler, {**env(world), "PROTHEON_BROKER": address(world), "PROTHEON_HOST": "plain"}):
        wait_until(lambda: {host.name: host.n_workers for host in broker_hosts(world)}.get("plain") == 1, 60)
        pipeline = write_pipeline(world.directory, "plain", "time.sleep(0.002)")
        run_id = world.submit(pipeline, write_numbers(world.directory / "n.txt", 2_000), chunk_lines=CHUNK_LINES).run_id
        assert world.finish(run_id).state == "succeeded"
    assert "plain" in hosts_of(world, run_id)


def broker_hosts(world: World) -> Sequence[HostView]:
    with BrokerClient(address(world)) as broker:
        return broker.hosts().hosts


@contextmanager
def plain_worker(directory: Path, scheduler: str, environment: dict[str, str]) -> Iterator[None]:
    """``dask worker`` as a person types it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    command = [sys.executable, *f"-m dask worker {scheduler} --nthreads 1 --no-dashboard".split()]
    command += ["--preload", "protheon_dask.run.preload_worker", "--local-directory", str(directory)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**inherited, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)
