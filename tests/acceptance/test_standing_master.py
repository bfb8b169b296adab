"""``protheon master`` on loopback with certificates of its own authority: commands find it, it restarts what dies, it ends in order."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

import protheon_dask as protheon
from protheon_dask.broker.peers import is_loopback
from protheon_dask.config import Settings
from protheon_dask.run import addresses
from protheon_dask.run.trust import founding
from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.ports import kept_port
from tests.fixtures.postgres import fresh_database
from tests.fixtures.processes import has_ended
from tests.fixtures.standing import PROTHEON, Master, started

N_LINES = 40


@pytest.fixture(scope="module")
def database_url(postgres_url: str) -> Iterator[str]:
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def master(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """One for the module, with two workers; nothing in it is plaintext."""
    home = tmp_path_factory.mktemp("standing") / "home"
    founding.init(Settings(home=str(home)), "nuc", [])
    with started(home, database_url, "--workers", "2", PROTHEON_EXIT_GRACE_S="5") as made:
        yield made


def load(master: Master, *arguments: object) -> dict[str, object]:
    done = master.run("load", *arguments, "--chunk-lines", 10, "--json")
    assert done.returncode == 0, done.stderr
    loaded: dict[str, object] = json.loads(done.stdout)
    return loaded


def wait_run(master: Master, run: object) -> dict[str, object]:
    """The run, once it has ended."""

    def ended() -> dict[str, object] | None:
        """the run has ended"""
        [row] = [row for row in json.loads(master.run("runs", "--json").stdout) if row["run"] == run]
        return row if row["state"] in ("succeeded", "incomplete", "cancelled") else None

    found: dict[str, object] = wait_until(ended, 90)
    return found


def test_it_says_where_everything_is_and_no_password(master: Master, database_url: str) -> None:
    told = master.told
    assert "mutual TLS" in told["gRPC"]
    assert told["Dask's scheduler"].strip().startswith("tls://127.0.0.1:")
    assert told["dashboard"].strip().startswith("http://127.0.0.1:")
    assert "***" in told["database"] or ":" not in database_url.split("@")[0].removeprefix("postgresql://")


def test_a_load_of_this_host_finds_it_and_speaks_by_this_hosts_certificate(master: Master, database_url: str, tmp_path: Path) -> None:
    done = master.run(
        "load", write_numbers(tmp_path / "found.txt", N_LINES), "--pipeline", write_pipeline(tmp_path, "found"), "--chunk-lines", 10
    )
    assert done.returncode == 0, done.stderr
    assert "using the local master" in done.stderr
    assert numbers(database_url, "found") == list(range(N_LINES))
    with grpc.insecure_channel(master.address) as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=1.0)


def test_a_detached_load_goes_on_without_its_command(master: Master, database_url: str, tmp_path: Path, gate: Gate) -> None:
    pipeline = write_pipeline(tmp_path, "detached", gate.body(1, 10))
    told = load(master, write_numbers(tmp_path / "detached.txt", N_LINES), "--pipeline", pipeline, "--detach")
    assert told["state"] in ("queued", "running")
    gate.open()
    assert wait_run(master, told["run"])["state"] == "succeeded"
    assert numbers(database_url, "detached") == list(range(N_LINES))


def test_a_detached_load_says_how_to_look_on_and_no_numbers_yet(master: Master, tmp_path: Path, gate: Gate) -> None:
    pipeline = write_pipeline(tmp_path, "looked_on", gate.body(1, 10))
    done = master.run("load", write_numbers(tmp_path / "looked_on.txt", N_LINES), "--pipeline", pipeline, "--chunk-lines", 10, "--detach")
    gate.open()
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    found = re.fullmatch(r"run (\d+) is submitted: protheon runs watch \1", line)
    assert found is not None
    assert wait_run(master, int(found[1]))["state"] == "succeeded"


def test_a_second_master_on_the_ledger_refuses_and_says_who_leads(master: Master) -> None:
    second = master.run("master")
    assert second.returncode == 2
    assert f"a master leads this ledger already: process {master.process.pid} of this host, at {master.address}" in second.stderr


@pytest.mark.slow
def test_a_second_master_of_another_home_refuses_and_says_where_the_leader_is(master: Master, database_url: str, tmp_path: Path) -> None:
    with started(tmp_path / "other", database_url, is_ready=False) as second:
        assert second.wait_end() == 2
    assert "another broker leads this ledger already, connected from " in second.said[-1]
    assert "protheon.connect(" in second.said[-1]


def test_a_notebook_connects_by_its_address_and_gets_dasks_client(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in master.env.items():
        if name.startswith("PROTHEON_"):
            monkeypatch.setenv(name, value)
    with protheon.connect(master.address) as cluster:
        assert cluster.info().n_threads == 2
        assert cluster.client.submit(sum, [1, 2], pure=False).result(timeout=30) == 3
        assert cluster.info().scheduler_address.startswith("tls://")


@pytest.mark.slow
@pytest.mark.parametrize("word", ["run.broker", "dask scheduler", "dask worker"])
def test_what_is_killed_comes_back_and_the_run_goes_on(master: Master, database_url: str, tmp_path: Path, word: str) -> None:
    name = "killed_" + word.replace(".", "_").replace(" ", "_")
    pipeline = write_pipeline(tmp_path, name, "if n % 10 == 0:\n    time.sleep(0.5)")
    told = load(master, write_numbers(tmp_path / f"{name}.txt", 200), "--pipeline", pipeline, "--detach")
    wait_until(lambda: len(numbers(database_url, name)) >= 20, 60)
    master.part(word).kill()
    assert wait_run(master, told["run"])["state"] == "succeeded"
    assert numbers(database_url, name) == list(range(200))
    wait_until(lambda: psutil.Process(master.part(word).pid).is_running(), 60)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_bounded_time_and_its_runs_go_on_at_the_next_start(postgres_url: str, tmp_path: Path, signum: int) -> None:
    """What the workers had is given back at no cost, so that the next start waits for no lease."""
    gate = Gate(tmp_path / "open")
    pipeline = write_pipeline(tmp_path, "resumed", gate.body(1, 10))
    source = write_numbers(tmp_path / "resumed.txt", N_LINES)
    with fresh_database(postgres_url) as url:
        home = tmp_path / "home"
        with started(home, url, "--workers", "2", PROTHEON_EXIT_GRACE_S="3") as first:
            run = load(first, source, "--pipeline", pipeline, "--detach")["run"]
            wait_until(lambda: ask(url, "SELECT count(*) FROM protheon.task WHERE state = 'running'") == [(2,)], 60)
            children = psutil.Process(first.process.pid).children(recursive=True)
            began_s = time.monotonic()
            assert first.end(signum) == 0, first.said
            took_s = time.monotonic() - began_s
        print(f"{signal.Signals(signum).name}: ended after {took_s:.1f} s")
        assert took_s < 3 + 4 + 5 + 20  # the grace, what is told late, the processes around, and a busy machine
        assert all(map(has_ended, children))
        assert ask(url, "SELECT state FROM protheon.run") == [("running",)]
        assert ask(url, "SELECT DISTINCT state FROM protheon.task WHERE state = 'running'") == []
        assert ask(url, "SELECT DISTINCT cost FROM protheon.attempt WHERE outcome <> 'succeeded'") == [("nothing",)]
        gate.open()
        with started(home, url, "--workers", "2") as second:
            assert wait_run(second, run)["state"] == "succeeded"
        assert numbers(url, "resumed") == list(range(N_LINES))


@pytest.mark.slow
def test_a_load_that_looks_on_waits_for_a_master_that_is_started_again(postgres_url: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "open")
    pipeline = write_pipeline(tmp_path, "waited", gate.body(1, 10))
    source = write_numbers(tmp_path / "waited.txt", N_LINES)
    ports = {"PROTHEON_EXIT_GRACE_S": "3", "PROTHEON_BROKER_PORT": str(kept_port())}
    with fresh_database(postgres_url) as url:
        home = tmp_path / "home"
        with started(home, url, "--workers", "2", **ports) as first:
            command = [PROTHEON, "load", source, "--pipeline", pipeline, "--chunk-lines", "10"]
            looking = subprocess.Popen(command, env=first.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            wait_until(lambda: ask(url, "SELECT count(*) FROM protheon.task WHERE state = 'running'") == [(2,)], 60)
            assert first.end() == 0, first.said
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                looking.wait(5)
            gate.open()
            with started(home, url, "--workers", "2", **ports):
                told, _ = looking.communicate(timeout=60)
        finally:
            looking.kill()
        assert looking.returncode == 0, told
        assert "starting one of our own" not in told
        assert numbers(url, "waited") == list(range(N_LINES))


@pytest.mark.slow
def test_one_that_is_killed_leaves_no_process_and_starts_again(postgres_url: str, tmp_path: Path) -> None:
    with fresh_database(postgres_url) as url:
        with started(tmp_path / "home", url, "--workers", "1") as first:
            children = psutil.Process(first.process.pid).children(recursive=True)
            first.process.kill()
            wait_until(lambda: all(map(has_ended, children)), 60)
        with started(tmp_path / "home", url, "--workers", "1") as second:
            assert "127.0.0.1" in second.address


@pytest.mark.slow
def test_ports_that_are_taken_or_asked_for_twice_are_refused_by_name(master: Master, postgres_url: str, tmp_path: Path) -> None:
    port = master.address.rpartition(":")[2]
    with (
        fresh_database(postgres_url) as url,
        started(
            tmp_path / "home", url, is_ready=False, PROTHEON_BROKER_PORT=port, PROTHEON_DASHBOARD_PORT="29999", PROTHEON_HTTP_PORT="29999"
        ) as second,
    ):
        assert second.wait_end() == 2
    assert f"port {port} on 127.0.0.1, of gRPC, is taken: stop what listens there, or set PROTHEON_BROKER_PORT" in second.said[-1]
    assert "port 29999, of HTTP, is asked for twice: set PROTHEON_HTTP_PORT to another (0: any)" in second.said[-1]


@pytest.mark.slow
def test_beyond_loopback_it_listens_where_it_must_alone_and_invites_on_a_terminal(postgres_url: str, tmp_path: Path) -> None:
    home, pipeline = tmp_path / "home", write_pipeline(tmp_path, "beyond")
    founding.init(Settings(home=str(home)), "nuc", [])
    with fresh_database(postgres_url) as url:
        place = url.replace("127.0.0.1", "pg.example") + "?hostaddr=127.0.0.1"  # a name that could be another machine's
        with started(home, place, "--bind", "0.0.0.0", "--workers", "1", on_terminal=True) as master:  # no stranger gets in: certificates
            wait_until(lambda: "to paste there" in master.told)
            told = master.told
            assert told["to paste there"].strip().startswith("protheon worker --join protheon-join.")
            assert told["Dask's scheduler"].strip().startswith("tls://0.0.0.0:")
            assert {"joining", "another host"} <= set(told)
            assert load(master, write_numbers(tmp_path / "beyond.txt", N_LINES), "--pipeline", pipeline)["loaded"] == N_LINES
            for address in ("127.0.0.1", next(iter(addresses.own_addresses()), "127.0.0.1")):
                with socket.create_connection((address, int(master.address.rpartition(":")[2])), timeout=5):
                    pass
            ports = {int(re.findall(r":(\d+)", told[what])[0]) for what in ("gRPC", "Dask's scheduler", "joining")}
            with protheon.connect(master.address, home=str(home)) as cluster:
                workers = cluster.client.scheduler_info()["workers"]
            own = {int(place.rpartition(":")[2]) for address, told in workers.items() for place in (address, told["nanny"])}
            assert ports <= (found := open_to_others(master.process.pid))
            assert found <= ports | own  # HTTP, the dashboard and Dask's own web servers are on loopback, whatever --bind says


def open_to_others(pid: int) -> set[int]:
    """The ports beyond loopback on which a process and all below it listen."""
    found = set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                found.add(connection.laddr.port)
    return found
