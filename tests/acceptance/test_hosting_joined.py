"""``protheon worker`` of a cluster with certificates: before its master is there, at work, and after it was removed."""

from __future__ import annotations

import gzip
import json
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from distributed import Scheduler

import protheon_dask as protheon
from protheon_dask.broker.join import JoinThread
from protheon_dask.config import Settings
from protheon_dask.run.exits import NOT_ALLOWED
from protheon_dask.run.parts import Places, Site
from protheon_dask.run.trust import founding
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.join_desk import JoinDesk
from protheon_dask.run.trust.membership import identity_of, membership_of, tls_below
from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.hosting import WorkerHost, worker_host
from tests.fixtures.ports import kept_port
from tests.fixtures.postgres import fresh_database
from tests.fixtures.standing import Master, started
from tests.fixtures.tls import identity

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

PASSWORD = "s3cret-of-the-database"
AGO = timedelta(hours=10)
"""A certificate that was made so long ago is due to be renewed, and still good."""


@pytest.fixture(scope="module")
def database_url(postgres_url: str) -> Iterator[str]:
    with fresh_database(postgres_url) as url:
        yield url.replace("@", f":{PASSWORD}@")  # the server asks for none


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerHost, Path, int]]:
    """A host that joined long ago and is started before its master: itself, the master's home and port."""
    directory, port = tmp_path_factory.mktemp("cluster"), kept_port()
    founding.init(Settings(home=str(directory / "master")), "nuc", [])
    long_ago = Authority.open(directory / "master", clock=lambda: datetime.now(UTC) - AGO)
    tls = identity(long_ago, "macbook", directory / "macbook")
    tls.note.write_text(json.dumps({"master": f"127.0.0.1:{port}", "host": "macbook"}))
    with worker_host(directory / "macbook", "--workers", "1") as host:
        host.wait_said("waiting for the master: no master answers at 127.0.0.1:")
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
    noted = membership_of(tls_below(early[1]))
    assert noted is not None
    assert noted.master == master.address, "where a worker on the master's own machine finds it"
    wait_until(lambda: "macbook is here, with 1 worker\n" in master.said)
    assert {row["host"]: row["n_workers"] for row in json.loads(master.run("cluster", "hosts", "--json").stdout)}["macbook"] == 1


def test_no_secret_is_in_a_command_line_a_log_a_page_the_ledger_or_what_dask_knows(
    early: tuple[WorkerHost, Path, int], master: Master, database_url: str, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked for on both machines in the midst of a run: the database's password, and the key that signs pipelines."""
    host, home = early[0], Path(master.env["PROTHEON_HOME"])
    host.wait_said("joined the master")
    run_id = load(master, tmp_path, "told", "--detach", body=gate.body(1, 10))
    wait_until(lambda: ask(database_url, "SELECT count(*) FROM protheon.attempt WHERE run_id = %s", run_id) == [(2,)])
    key = (home / "cluster.key").read_text()
    pids = (host.process.pid, master.process.pid)
    told = dict[str, str]()
    for process in (process for top in pids for process in tree_of(top)):
        with suppress(psutil.NoSuchProcess):  # splitters, which come and go
            told[f"process {process.pid}"] = " ".join(process.cmdline())
    told |= {str(path): path.read_text() for path in (home / "logs").iterdir()}
    told |= {"the host": host.told(), "the master": "".join((*master.printed, *master.said))}
    told |= pages(master)
    tables = ask(database_url, "SELECT concat(schemaname, '.', tablename) FROM pg_tables WHERE schemaname = 'protheon'")
    told |= {table: str(ask(database_url, f"SELECT t::text FROM {table} t")) for (table,) in tables}
    with protheon.connect(master.address, home=str(home)) as cluster:
        cluster.client.dump_cluster_state(str(tmp_path / "dump"))
        told["tasks"] = cluster.client.run_on_scheduler(arguments_of_tasks).decode("latin-1")
    told["Dask"] = gzip.decompress((tmp_path / "dump.msgpack.gz").read_bytes()).decode("latin-1")
    gate.open()
    assert "run_attempt" in told["tasks"]
    assert "chunk-" in told["Dask"]
    assert len(told) > 40, sorted(told)
    secrets = (PASSWORD, PASSWORD.encode().hex(), key, bytes.fromhex(key).decode("latin-1"))
    assert [where for where, text in told.items() if any(secret in text for secret in secrets)] == []
    assert (host.home / "hosting" / "cluster.key").stat().st_mode & 0o777 == 0o600
    wait_until(lambda: len(numbers(database_url, "told")) == 40, 60)


def arguments_of_tasks(dask_scheduler: Scheduler) -> bytes:
    """Of all that it has now."""
    import pickle

    return b"".join(pickle.dumps(task.run_spec) for task in dask_scheduler.tasks.values())


arguments_of_tasks.__module__ = "__main__"  # it travels by value


def test_no_secret_is_in_the_words_for_a_process(tmp_path: Path) -> None:
    places = Places(broker_port=1, scheduler_port=2, dashboard_port=3, http_port=4)
    site = Site(tmp_path, Settings(), {"PROTHEON_DATABASE_URL": f"postgresql://ann:{PASSWORD}@nuc/games"}, places)
    parts = (site.scheduler(), site.broker(ephemeral=False, takes_over=False), site.workers(1))
    assert all(PASSWORD in str(part.env) for part in parts)
    assert not [told for told in map(repr, (site, *parts)) if PASSWORD in told]


def tree_of(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def pages(master: Master) -> dict[str, str]:
    """The dashboard's, with those of each worker, and HTTP's."""
    dashboard, http = (re.findall(r"http://[\d.:]+", master.told[what])[0] for what in ("dashboard", "HTTP"))
    places = [f"{http}/{path}" for path in ("metrics", "workers", "healthz")]
    places += [f"{dashboard}/{path}" for path in ("status", "info/main/logs.html", "json/counts.json", "metrics", "info/main/workers.html")]
    found = {place: get(place) for place in places}
    of_workers = set(re.findall(r"(?:worker|logs)/[^\"'/]+\.html", found[places[-1]]))
    assert of_workers
    return found | {path: get(f"{dashboard}/info/{path}") for path in of_workers}


def get(place: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(place, timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_a_host_that_was_away_for_days_comes_back_by_itself(master: Master, early: tuple[WorkerHost, Path, int], tmp_path: Path) -> None:
    long_ago = Authority.open(early[1], clock=lambda: datetime.now(UTC) - timedelta(days=4))
    tls = identity(long_ago, "laptop", tmp_path / "laptop")
    desk = JoinDesk(Authority.open(early[1]), int(master.address.rpartition(":")[2]))
    with JoinThread(desk, tls_below(early[1]), "127.0.0.1", 0) as server:  # a master on loopback opens none
        member = {"master": master.address, "host": "laptop", "joining": [f"127.0.0.1:{server.port}"]}
        tls.note.write_text(json.dumps(member))
        with worker_host(tmp_path / "laptop", "--workers", "1") as host:
            host.wait_said("the master gave it a new one, until")
            host.wait_said("joined the master")
            assert host.wait_drained() == 0, host.told()


@pytest.mark.slow
def test_a_host_that_was_removed_is_told_so_and_ends(master: Master, early: tuple[WorkerHost, Path, int], tmp_path: Path) -> None:
    tls = identity(Authority.open(early[1]), "handheld", tmp_path / "handheld")
    tls.note.write_text(json.dumps({"master": master.address, "host": "handheld"}))
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
    wait_until(lambda: "macbook is away: none of its workers is connected\n" in master.said)
    assert re.search(r"macbook +in +none ", master.run("cluster", "hosts").stdout)
    master.process.send_signal(signal.SIGINT)
    wait_until(lambda: "ending: runs go on when the master is started again\n" in master.said)
    assert master.wait_end() == 0
