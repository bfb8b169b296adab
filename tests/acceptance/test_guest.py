"""``protheon.connect(scheduler=..)``: a Dask cluster of somebody else, whose workers know nothing of us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import protheon_dask as protheon
from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.run.parts import bound_port
from protheon_dask.run.trust.identity import own_name
from tests.acceptance.conftest import write_numbers
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.postgres import fresh_database
from tests.fixtures.standing import home_environment

N_LINES = 60
PORTS: dict[str, Any] = {"broker_port": 0, "http_port": 0, "scheduler_port": 0, "dashboard_port": 0}


@dataclass
class Theirs:
    """A plain `dask scheduler` and a plain `dask worker` of two threads, with Dask's own settings."""

    scheduler: str
    worker: subprocess.Popen[bytes]
    url: str
    home: Path

    def connect(self, **options: Any) -> protheon.Cluster:
        return protheon.connect(scheduler=self.scheduler, into=self.url, home=str(self.home), **PORTS, **options)


@pytest.fixture(scope="module")
def theirs(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    with ExitStack() as stack:
        url, directory = stack.enter_context(fresh_database(postgres_url)), tmp_path_factory.mktemp("theirs")
        port = bound_port(0)
        scheduler = f"tcp://127.0.0.1:{port}"
        env = home_environment(directory / "worker", url)
        started = []
        for arguments in (
            f"scheduler --host 127.0.0.1 --port {port} --no-dashboard --dashboard-address 127.0.0.1:0",
            f"worker {scheduler} --nworkers 1 --nthreads 2 --no-dashboard --dashboard-address 127.0.0.1:0 --local-directory {directory}",
        ):
            log = stack.enter_context((directory / f"{arguments.split()[0]}.log").open("wb"))
            started.append(
                subprocess.Popen([sys.executable, "-m", "dask", *arguments.split()], env=env, cwd=directory, stdout=log, stderr=log)
            )
        for process in started:
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield Theirs(scheduler, started[1], url, directory / "home")


@pytest.mark.slow
def test_lines_are_loaded_by_workers_that_were_started_without_us_through_a_pipeline_by_value(theirs: Theirs, tmp_path: Path) -> None:
    table = protheon.Table(name="public.guest", columns=(protheon.Column("n", "bigint"),))

    def by_value(line: bytes) -> tuple[int]:
        return (int(line),)

    by_value.__module__ = "__main__"  # as a notebook's cell has it: nobody can import it there
    pipeline = protheon.pipeline(version="1", tables=[table])(by_value)
    with theirs.connect() as cluster:
        wait_until(lambda: cluster.info().n_threads == 2)
        own = own_name(Settings(home=str(theirs.home)))
        with BrokerClient(cluster.master.address) as broker:  # not Dask's address: rates and benches of hosts are known by name
            wait_until(lambda: [host.name for host in broker.hosts().hosts] == [own])
        run = cluster.load(str(write_numbers(tmp_path / "guest.txt", N_LINES)), pipeline, chunk_lines=10)
        final = run.wait(timeout=90)
        assert (final.state, final.loaded) == ("succeeded", N_LINES), final.reason
        assert ask(theirs.url, "SELECT n FROM public.guest ORDER BY n") == [(n,) for n in range(N_LINES)]
        assert run.verify().findings == ()
    assert psutil.Process(theirs.worker.pid).is_running(), "their workers stay as they are"


@pytest.mark.slow
def test_a_worker_that_dies_and_a_second_broker_cost_no_row(theirs: Theirs, tmp_path: Path) -> None:
    """Dask runs a lost key again, by its own settings: the claim refuses the copy, the ledger alone retries."""
    table = protheon.Table(name="public.guest_lost", columns=(protheon.Column("n", "bigint"),))

    def lost(line: bytes) -> tuple[int]:
        import time

        time.sleep(0.05)
        return (int(line),)

    lost.__module__ = "__main__"
    pipeline = protheon.pipeline(version="1", tables=[table])(lost)
    source = str(write_numbers(tmp_path / "lost.txt", 200))
    with theirs.connect() as cluster:
        run = cluster.load(source, pipeline, chunk_lines=10)
        wait_until(lambda: ask(theirs.url, "SELECT count(*) FROM public.guest_lost") >= [(20,)], 60)
        [victim] = [child for child in psutil.Process(theirs.worker.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        victim.kill()
        wait_until(lambda: ask(theirs.url, "SELECT count(*) FROM public.guest_lost") >= [(100,)], 60)
    with theirs.connect() as cluster:  # the broker before was ended in the midst of it: typed again, it goes on
        final = cluster.load(source, pipeline, chunk_lines=10).wait(timeout=90)
        assert (final.state, run.id < final.run) == ("succeeded", True), final.reason
    assert ask(theirs.url, "SELECT n FROM public.guest_lost ORDER BY n") == [(n,) for n in range(200)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": "127.0.0.1:8786"}, "is no address of a Dask scheduler: give tcp://host:8786"),
        ({"scheduler": "tcp://10.0.0.5:8786"}, "in plaintext.*say insecure=True"),
        ({"scheduler": "tcp://10.0.0.5:8786", "insecure": True, "into": "embedded"}, "the embedded PostgreSQL serves this machine alone"),
        (
            {"scheduler": "tcp://127.0.0.1:8786", "bind": "10.0.0.5"},
            "in plaintext.*say insecure=True",
        ),  # by a tunnel: its workers are elsewhere
        ({"scheduler": "tcp://127.0.0.1:8786", "bind": "0.0.0.0", "insecure": True}, "is no address of this machine"),
        ({"address": "nuc:50051", "bind": "10.0.0.5"}, "belong to scheduler="),
        ({"scheduler": Path()}, "takes an address or a distributed.Client, not a PosixPath"),
        ({}, "joined no cluster"),
        ({"address": "nuc:50051", "scheduler": "tcp://127.0.0.1:8786"}, "give one of the two"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_give(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        protheon.connect(**{"into": "postgresql://nobody@127.0.0.1:1/none", "home": str(tmp_path), **options})
