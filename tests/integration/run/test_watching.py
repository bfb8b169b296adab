"""Looking on at a run from outside: what is away is said, and since when, and the look goes on when it is back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from protheon_dask.errors import LedgerUnavailable
from protheon_dask.ledger import runs
from protheon_dask.run import watching
from protheon_dask.run.watching import UNLED, watch_run
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.postgres_proxy import PostgresProxy
from tests.integration.run.conftest import Bench


@pytest.fixture
def proxy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresProxy]:
    """Before a ledger with a running run; nobody keeps a connection through it for long."""
    monkeypatch.setattr(watching, "MASTER_EVERY_S", 0.1)
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.02)
    bench.submit("1\n2\n")
    with PostgresProxy(bench.url) as made:
        yield made


def pictures(home: Path, url: str) -> queue.Queue[RunStatistics]:
    """What a watch on a thread of its own shows."""
    shown: queue.Queue[RunStatistics] = queue.Queue()

    def watch() -> None:
        with closing(watch_run(home, url)) as seen:  # type: ignore[type-var]  # a generator
            for picture in seen:
                shown.put(picture)

    threading.Thread(target=watch, daemon=True).start()
    return shown


def next_told(shown: queue.Queue[RunStatistics], *, well: bool) -> RunStatistics:
    """The next picture that says what is waited for, or that nothing is: one of before may come once more with newer times."""
    while ((picture := shown.get(timeout=10)).reason is None) != well:
        pass
    return picture


def test_a_run_that_nobody_leads_says_so_and_since_when_and_how_to_go_on(bench: Bench, proxy: PostgresProxy) -> None:
    shown = pictures(bench.directory, proxy.url)
    assert shown.get(timeout=10).reason is None
    bench.conn.execute("SELECT pg_advisory_unlock_all()")
    told = shown.get(timeout=10).reason
    assert told is not None
    assert told.startswith("since ")
    assert told.endswith(f" UTC: {UNLED}")
    with bench.conn.transaction():
        runs.cancel_run(bench.conn, bench.run_id, "by hand")
    while (last := shown.get(timeout=10)).reason == told:
        pass  # one of before may come once more, with newer numbers
    assert (last.state, last.reason) == ("cancelled", "by hand")  # the time that is said stands: one for one outage
    assert shown.empty()


def test_an_outage_of_postgres_is_waited_for_and_said_once(bench: Bench, proxy: PostgresProxy) -> None:
    shown = pictures(bench.directory, proxy.url)
    assert shown.get(timeout=10).reason is None
    proxy.is_away = True
    told = next_told(shown, well=False).reason
    assert told is not None
    assert told.startswith("since ")
    assert "PostgreSQL" in told
    proxy.is_away = False
    next_told(shown, well=True)
    runs.pause_run(bench.conn, bench.run_id, "enough")
    last = next_told(shown, well=False)
    assert (last.state, last.reason) == ("paused", "enough")


def test_a_ledger_that_is_away_from_the_start_is_an_error(bench: Bench, proxy: PostgresProxy) -> None:
    proxy.is_away = True
    with pytest.raises(LedgerUnavailable):
        next(watch_run(bench.directory, proxy.url))
