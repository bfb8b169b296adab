"""``protheon worker`` of a cluster with certificates: before its master is there, at work, and after it was removed."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from protheon_dask.broker.join import JoinThread
from protheon_dask.config import Settings
from protheon_dask.run import founding
from protheon_dask.run.authority import Authority
from protheon_dask.run.exits import NOT_ALLOWED
from protheon_dask.run.join_desk import JoinDesk
from protheon_dask.run.membership import identity_of, tls_below
from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.hosting import WorkerHost, worker_host
from tests.fixtures.ports import kept_port
from tests.fixtures.postgres import fresh_database
from tests.fixtures.standing import Master, started
from tests.fixtures.tls import identity

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

AGO = timedelta(hours=10)
"""A certificate that was made so long ago is due to be renewed, and still good."""


@pytest.fixture(scope="module")
def database_url(postgres_url: str) -> Iterator[str]:
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerHost, Path, int]]:
    """A host that joined long ago and is started before its master: itself, the master's home and port."""
    directory, port = tmp_path_factory.mktemp("cluster"), kept_port()
    founding.init(Settings(home=str(directory / "master")), "nuc", [])
    long_ago = Authority.open(directory / "master", clock=lambda: datetime.now(UTC) - AGO)
    tls = identity(long_ago, "macbook", directory / "macbook")
    (tls.directory / "cluster.json").write_text(json.dumps({"master": f"127.0.0.1:{port}", "host": "macbook"}))
    with worker_host(directory / "macbook", "--workers", "1") as host:
        host.wait_said("waiting for the master at 127.0.0.1:")
        yield host, directory / "master", port


@pytest.fixture(scope="module")
def master(early: tuple[WorkerHost, Path, int], database_url: str) -> Iterator[Master]:
    """Started after its host; it has no workers of its own."""
    _, home, port = early
    with started(home, database_url, "--workers", "0", PROTHEON_BROKER_PORT=str(port), PROTHEON_EXIT_GRACE_S="4") as made:
        yield made


def load(master: Master, directory: Path, table: str, *options: str, body: str = "") -> int:
    """Load forty lines in four chunks; the run's number."""
    pipeline, source = write_pipeline(directory, table, body), write_numbers(directory / f"{table}.txt", 40)
    done = master.run("load", source, "--pipeline", pipeline, "--chunk-lines", 10, "--json", *options)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["run"])


def hosts_of(url: str, run_id: int) -> set[str]:
    return {row[0] for row in ask(url, "SELECT host FROM protheon.attempt WHERE run_id = %s", run_id)}


def test_a_host_that_was_there_first_works_as_soon_as_its_master_is(
    early: tuple[WorkerHost, Path, int], master: Master, database_url: str, tmp_path: Path
) -> None:
    """It knows its master from when it joined, gets the database and the key from it, and renews the certificate that was due."""
    host = early[0]
    host.wait_said("joined the master")
    assert "as macbook, with 1 worker, over mutual TLS" in host.said
    run_id = load(master, tmp_path, "early")
    assert hosts_of(database_url, run_id) == {"macbook"}
    assert numbers(database_url, "early") == list(range(40))
    host.wait_said("the certificate was renewed")
    assert identity_of(tls_below(host.home)).made_at > datetime.now(UTC) - timedelta(hours=1)


def test_no_secret_is_in_a_command_line_or_a_log(early: tuple[WorkerHost, Path, int], master: Master, database_url: str) -> None:
    host = early[0]
    host.wait_said("joined the master")
    key = (Path(master.env["PROTHEON_HOME"]) / "cluster.key").read_text()
    told = [" ".join(process.cmdline()) for process in psutil.Process(host.process.pid).children(recursive=True)]
    for text in (*told, host.told()):
        assert database_url not in text
        assert key not in text
    assert (host.home / "hosting" / "cluster.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_host_that_was_away_for_days_comes_back_by_itself(master: Master, early: tuple[WorkerHost, Path, int], tmp_path: Path) -> None:
    long_ago = Authority.open(early[1], clock=lambda: datetime.now(UTC) - timedelta(days=4))
    tls = identity(long_ago, "laptop", tmp_path / "laptop")
    desk = JoinDesk(Authority.open(early[1]), int(master.address.rpartition(":")[2]))
    with JoinThread(desk, tls_below(early[1]), "127.0.0.1", 0) as server:  # a master on loopback opens none
        member = {"master": master.address, "host": "laptop", "joining": [f"127.0.0.1:{server.port}"]}
        (tls.directory / "cluster.json").write_text(json.dumps(member))
        with worker_host(tmp_path / "laptop", "--workers", "1") as host:
            host.wait_said("the master gave it a new one, until")
            host.wait_said("joined the master")
            assert host.wait_drained() == 0, host.told()


@pytest.mark.slow
def test_a_host_that_was_removed_is_told_so_and_ends(master: Master, early: tuple[WorkerHost, Path, int], tmp_path: Path) -> None:
    tls = identity(Authority.open(early[1]), "handheld", tmp_path / "handheld")
    (tls.directory / "cluster.json").write_text(json.dumps({"master": master.address, "host": "handheld"}))
    with worker_host(tmp_path / "handheld", "--workers", "1") as host:
        host.wait_said("joined the master")
        removed = master.run("cluster", "remove", "handheld")
        assert removed.returncode == 0, removed.stderr
        assert host.wait_code() == NOT_ALLOWED, host.told()
        assert "removed" in host.said


def test_the_last_host_is_drained_in_the_midst_of_a_run_and_runs_nothing_twice(
    master: Master, early: tuple[WorkerHost, Path, int], database_url: str, tmp_path: Path, gate: Gate
) -> None:
    """The last test of the module: its chunk in hand ends after the signal, no other is begun, and the run waits for another host."""
    host = early[0]
    host.wait_said("joined the master")
    run_id = load(master, tmp_path, "drained", "--detach", body=gate.body(1, 10))
    story = "SELECT outcome, cost FROM protheon.attempt WHERE run_id = %s ORDER BY started_at"
    wait_until(lambda: ask(database_url, story, run_id) == [("succeeded", "nothing"), (None, None)])
    host.signal(signal.SIGTERM)
    wait_until(lambda: "worker.drain" in host.log)
    gate.open()
    assert host.wait_code() == 0, host.told()
    assert ask(database_url, story, run_id) == [("succeeded", "nothing")] * 2
    assert ask(database_url, "SELECT count(*) FROM protheon.task WHERE state = 'ready'") == [(2,)]
