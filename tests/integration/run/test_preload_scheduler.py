"""Schedulers with and without our preload: by hand, by the shim, and one that is not ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from benchmarks.full_ledger import fill
from protheon_dask.ledger.connect import Connection
from protheon_dask.run.dask_link import DaskLink
from protheon_dask.run.parts import bound_port
from protheon_dask.run.story import story_of
from protheon_dask.run.taking import PERIOD_S, Taker
from protheon_dask.telemetry.board import REFRESH_S, SHARE
from protheon_dask.telemetry.story import RunStory
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.cluster import wait_until
from tests.fixtures.pictures import Shown
from tests.fixtures.standing import home_environment

SHIM = Path(__file__).parents[3] / "scheduler" / "preload.py"


@dataclass
class Scheduler:
    """A scheduler that was started by hand."""

    address: str
    dashboard: str

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.dashboard}{path}", timeout=30) as answer:
            return str(answer.read().decode())


@contextmanager
def scheduler(*options: str) -> Iterator[Scheduler]:
    command = [*(sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"), "--dashboard-address", "127.0.0.1:0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process, ExitStack() as stack:
        stack.callback(process.terminate)
        assert process.stderr is not None
        found: dict[str, str] = {}
        for line in process.stderr:
            for name, pattern in (("address", r"Scheduler at:\s+(tcp://\S+)"), ("dashboard", r"dashboard at:\s+http://([^/\s]+)")):
                if match := re.search(pattern, line):
                    found[name] = match[1]
            if len(found) == 2:
                break
        reader = threading.Thread(target=process.stderr.read)  # an unread pipe would fill
        reader.start()
        stack.callback(reader.join)
        stack.callback(process.terminate)  # first: the reader ends with it
        yield Scheduler(**found)


class Led:
    """A coordinator with which all is well."""

    ledger_lost_at: float | None = None
    waiting_for: str | None = None

    def __init__(self, dask: DaskLink) -> None:
        self.dask = dask

    @property
    def round_at(self) -> float:
        return time.time()


@contextmanager
def taker(url: str, address: str, directory: Path, *, owns_scheduler: bool) -> Iterator[Taker]:
    with ExitStack() as stack:
        link = DaskLink(address, lambda _: None)
        stack.callback(link.close)

        def is_asked() -> bool:
            """The link has reached the scheduler: a coordinator asks for its workers at every round."""
            try:
                link.workers()
            except OSError:
                return False
            return True

        wait_until(is_asked)
        yield stack.enter_context(Taker(url, Led(link), ChunkStore(directory, 1 << 20), owns_scheduler=owns_scheduler))


def test_a_scheduler_started_by_hand_with_the_shim_has_the_pages_and_takes_pictures(ledger_database: str, tmp_path: Path) -> None:
    with scheduler("--preload", str(SHIM)) as ours, taker(ledger_database, ours.address, tmp_path, owns_scheduler=True) as taking:
        shown = Shown(ours.address)
        wait_until(lambda: shown.latest())
        latest = wait_until(lambda: (now := taking.latest()) is not None and now.counted_at is not None and now)
        assert (latest.missing, latest.workers, latest.runs) == ((), (), ())
        assert "protheon" in ours.page("/protheon").lower()
        plots = json.loads(ours.page("/individual-plots.json"))
        assert [path for path in plots.values() if path.startswith("/individual-protheon")]


@pytest.mark.slow
def test_a_story_that_takes_longer_than_a_picture_is_read_once_and_its_cost_is_told(
    ledger_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is read, each answer of the scheduler's wishes for it again."""
    read: list[int] = []

    def slow(conn: Connection, run: int) -> RunStory:
        read.append(run)
        time.sleep(2.5 * PERIOD_S)
        return story_of(conn, run)

    monkeypatch.setattr("protheon_dask.run.taking.story_of", slow)
    with scheduler("--preload", str(SHIM)) as ours, taker(ledger_database, ours.address, tmp_path, owns_scheduler=True):
        shown = Shown(ours.address)
        wait_until(lambda: shown.latest())
        wait_until(lambda: shown.is_unknown(77))
        time.sleep(2 * PERIOD_S)  # for a second reading, which would begin at once
        assert read == [77]
        assert shown.took_s(77) >= 2.5 * PERIOD_S


@pytest.mark.slow
def test_a_page_that_shows_a_large_run_at_work_leaves_the_database_alone_most_of_the_time(ledger_database: str, tmp_path: Path) -> None:
    with psycopg.connect(ledger_database, autocommit=True) as conn:
        fill(conn, 100_000)
        conn.execute("UPDATE protheon.run SET submitted_at = now() - interval '3 hours'")
        conn.execute(
            "UPDATE protheon.attempt SET started_at = now() - interval '3 hours' + task_id * interval '0.03 s',"
            " ended_at = now() - interval '3 hours' + task_id * interval '0.03 s' + interval '9 s', copy_s = 5 WHERE outcome = 'succeeded'"
        )
        [(run,)] = conn.execute("SELECT run_id FROM protheon.attempt GROUP BY run_id ORDER BY count(*) DESC LIMIT 1").fetchall()
        conn.execute("UPDATE protheon.run SET state = 'running', ended_at = NULL WHERE id = %s", (run,))
    with scheduler("--preload", str(SHIM)) as ours, taker(ledger_database, ours.address, tmp_path, owns_scheduler=True):
        shown = Shown(ours.address)
        wait_until(lambda: shown.latest())
        first = wait_until(lambda: shown.story(run), 120)
        took_s = shown.took_s(run)
        assert took_s > 2 * REFRESH_S * SHARE / (1 - 2 * SHARE), "too short to tell"
        until_s = time.monotonic() + 2 * (took_s + REFRESH_S)  # two more readings, if a story were read as often as it is old
        while time.monotonic() < until_s:
            assert (told := shown.story(run)) is not None
            assert told.as_of == first.as_of
            time.sleep(PERIOD_S)


@pytest.mark.slow
def test_a_scheduler_without_the_preload_is_missed_only_where_it_is_ours(
    ledger_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protheon_dask.run.taking.STALE_S", 1.0)
    with scheduler() as theirs, ExitStack() as stack:
        ours, not_ours = (
            stack.enter_context(taker(ledger_database, theirs.address, tmp_path, owns_scheduler=is_ours)) for is_ours in (True, False)
        )

        def missed() -> tuple[str, ...]:
            """It says that the preload is not there, after some seconds."""
            latest = ours.latest()
            return () if latest is None else latest.missing

        [told] = wait_until(missed, 60)
        assert re.match(r"since \d\d:\d\d:\d\d UTC: the dashboard's preload is not with the Dask scheduler: ", told)
        latest = not_ours.latest()
        assert latest is not None
        assert latest.missing == ()


def test_without_postgresql_pictures_go_on_and_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protheon_dask.run.taking.STALE_S", 1.0)
    nobody = "postgresql://nobody@127.0.0.1:1/nothing"
    link = DaskLink("tcp://127.0.0.1:1", lambda _: None)
    with Taker(nobody, Led(link), ChunkStore(tmp_path, 1 << 20), owns_scheduler=True) as taking:

        def told() -> tuple[str, ...]:
            """Both are missed."""
            latest = taking.latest()
            return latest.missing if latest is not None and len(latest.missing) == 2 else ()

        ledger, dask = wait_until(told)
        first = taking.latest()
        assert first is not None
        assert "PostgreSQL does not answer" in ledger
        assert "the Dask scheduler does not answer" in dask
        assert (first.counted_at, first.runs) == (None, ())
        wait_until(lambda: (now := taking.latest()) is not None and now.at > first.at)
    link.close()


@pytest.mark.slow
def test_a_worker_whose_preload_fails_ends_and_works_for_nobody(tmp_path: Path) -> None:
    """Dask alone would log it, and let it work: unguarded, and each of its tasks would fail."""
    with scheduler() as one:
        command = [sys.executable, *f"-m dask worker {one.address} --nthreads 1 --no-dashboard --dashboard-address 127.0.0.1:0".split()]
        command += ["--preload", "protheon_dask.run.preload_worker", "--local-directory", str(tmp_path)]
        env = {**home_environment(tmp_path), "PROTHEON_BROKER": f"127.0.0.1:{bound_port(0)}"}  # where nobody listens
        ended = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert ended.returncode
    assert "preload.failed" in ended.stderr
    assert "BrokerUnavailable" in ended.stderr
