"""A server that crashes with a COMMIT on its way, and takes its time to recover: nobody guesses, its log decides."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

from protheon_dask.ledger.migrate import migrate
from protheon_dask.ledger.server_process import demotion, read_pid_file
from tests.fixtures.cluster import wait_until
from tests.fixtures.own_postgres import OwnServer
from tests.fixtures.postgres import find_test_binaries, scratch_dir
from tests.fixtures.postgres_proxy import Loss, PostgresProxy
from tests.integration.run.conftest import Bench, Running

IN_RECOVERY = "the database system is not accepting connections"
TEN = "".join(f"{n}\n" for n in range(10))


@dataclass
class Recovering:
    """A server that can be held in recovery, where it refuses every connection with 57P03, until it is promoted."""

    server: OwnServer

    @contextmanager
    def held(self) -> Iterator[None]:
        self.server.signal(signal.SIGQUIT)
        signal_file = self.server.data_dir / "standby.signal"
        signal_file.touch()
        demotion().give(signal_file)
        settings, self.server.settings = self.server.settings, {**self.server.settings, "hot_standby": "off"}
        self.server.start()
        self.server.settings = settings
        yield
        (self.server.data_dir / "promote").touch()
        demotion().give(self.server.data_dir / "promote")
        found = read_pid_file(self.server.data_dir)
        assert found is not None
        psutil.Process(found.pid).send_signal(signal.SIGUSR1)

    def n_refused(self) -> int:
        return (self.server.root / "log").read_text().count(IN_RECOVERY)


@pytest.fixture
def recovering() -> Iterator[Recovering]:
    with scratch_dir() as root:
        server = OwnServer(find_test_binaries(), root, {"synchronous_commit": "on"})
        server.make()
        server.start()
        try:
            yield Recovering(server)
        finally:
            server.stop()


@pytest.fixture
def ledger_database(recovering: Recovering) -> str:
    """The bench's: of this server."""
    recovering.server.execute("CREATE DATABASE shop")
    url = recovering.server.url("shop")
    migrate(url)
    return url


@pytest.mark.parametrize("loss", [pytest.param(Loss.ANSWER, id="committed"), pytest.param(Loss.COMMIT, id="not committed")])
def test_a_commit_whose_answer_was_lost_in_a_crash_is_what_the_server_remembers(bench: Bench, recovering: Recovering, loss: Loss) -> None:
    bench.submit(TEN + "x\n")
    with PostgresProxy(bench.url) as proxy:
        worker = bench.worker(proxy.url)
        assert worker.run(bench.dispatch(1)) == "succeeded"  # its connection is open from now on
        proxy.is_away = True  # nobody is asked before the crash
        proxy.arm(loss)
        attempt = Running(lambda: worker.run(bench.dispatch(0)))
        assert proxy.struck.wait(20)
        with recovering.held():
            before = recovering.n_refused()
            proxy.is_away = False
            wait_until(lambda: recovering.n_refused() >= before + 2)
        word = attempt.answer()
    if loss is Loss.ANSWER:
        assert word == "succeeded"
        assert bench.numbers() == list(range(10))
        assert (bench.endings(), bench.state()) == ([(1, "succeeded", "nothing")], "succeeded")
    else:
        assert word == "outage: the connection to PostgreSQL broke in COMMIT, which did not happen"
        assert bench.numbers() == []
        assert (bench.endings(), bench.state()) == ([(1, "released", "nothing")], "ready")
    assert bench.ask("SELECT DISTINCT failures, crashes, losses FROM protheon.task") == [(0, 0, 0)]
