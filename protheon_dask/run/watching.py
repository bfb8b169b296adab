"""Watching a run from outside its command: by the master that it finds, else from the ledger; what is away is waited for, and named."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from protheon_dask.errors import BrokerUnavailable, LedgerUnavailable, ProtheonError
from protheon_dask.ledger import leadership, runs
from protheon_dask.ledger.connect import Connection, opened, place_of
from protheon_dask.ledger.migrate import check_current
from protheon_dask.model import RunState
from protheon_dask.run.local import ANNOUNCEMENTS, find_local
from protheon_dask.run.master import Master
from protheon_dask.run.rejects import with_refusals
from protheon_dask.run.statistics import statistics_of
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.words import says_since, since

LOOK_EVERY_S = 0.5
MASTER_EVERY_S = 3.0
"""Period of the look for a master, which knows more than the ledger of what a run waits for."""
UNLED = "no master leads this ledger: type the run's command again to go on"


def waits(home: Path, url: str, run_ids: Iterable[int]) -> dict[int, str]:
    """What running runs wait for, and since when where that is known; a run that works is left out, as is one of which nobody can tell."""
    wanted = list(run_ids)
    told: dict[int, str] = {}
    with suppress(BrokerUnavailable, LedgerUnavailable):
        master = find_local(home, url) if wanted else None
        if master is not None:
            with master:
                told = {run_id: reason for run_id in wanted if (reason := master.get(run_id).reason) is not None}
        elif wanted:
            with opened(url, application="protheon-cli") as conn:
                told = {} if leadership.is_led(conn) else dict.fromkeys(wanted, UNLED)
    return told


@contextmanager
def outages_dated(home: Path, url: str) -> Iterator[None]:
    """While PostgreSQL is away a master of this user may know since when: what the block raises says so then."""
    try:
        yield
    except LedgerUnavailable as exc:
        for told in _told_by_masters(home):
            if says_since(told) and str(place_of(url)) in told:
                raise LedgerUnavailable(told) from exc
        raise


def _told_by_masters(home: Path) -> Iterator[str]:
    """What each master of this user says of a PostgreSQL that is away: without the ledger nobody can tell which is whose."""
    for announced in home.glob(ANNOUNCEMENTS):
        try:
            with Master(json.loads(announced.read_text())["address"]) as master:
                master.get()
        except LedgerUnavailable as told:
            yield str(told)
        except (OSError, ValueError, KeyError, ProtheonError):
            continue  # that master is gone, or has other cares


def watch_run(home: Path, url: str, run_id: int | None = None) -> Iterator[RunStatistics]:
    """The run at once and whenever it changed, until it is final or paused. run_id None is the latest.

    While PostgreSQL, the broker or the scheduler is away the picture says so, and since when.
    Raises: NotFound, MigrationPending; LedgerUnavailable before the first picture.
    """
    with opened(url, application="protheon-cli") as conn:
        check_current(conn)
        latest = _look(conn, run_id or runs.latest_run(conn))
    yield latest
    away = _Away()
    while not latest.state.is_settled:
        for picture in _pictures(home, url, latest, away):
            if picture != latest:
                latest = picture
                yield latest


def _pictures(home: Path, url: str, known: RunStatistics, away: _Away) -> Iterator[RunStatistics]:
    """Pictures of a run for a while: from its master until it ends, or from the ledger until it is time to look for a master again."""
    with suppress(BrokerUnavailable):  # it is gone with its command, or is not yet there
        try:
            master = find_local(home, url)
            if master is not None:
                with master:
                    yield from master.watch(known.run)
            else:
                yield from _from_ledger(url, known.run, away)
        except LedgerUnavailable as exc:
            yield dataclasses.replace(known, reason=away.since(str(exc)))
            time.sleep(LOOK_EVERY_S)


def _from_ledger(url: str, run_id: int, away: _Away) -> Iterator[RunStatistics]:
    end_at = time.monotonic() + MASTER_EVERY_S
    with opened(url, application="protheon-cli") as conn:
        while time.monotonic() < end_at:
            picture = _look(conn, run_id)
            if picture.state is RunState.RUNNING and not leadership.is_led(conn):
                picture = dataclasses.replace(picture, reason=away.since(UNLED))
            else:
                away.end()
            yield picture
            if picture.state.is_settled:
                return
            time.sleep(LOOK_EVERY_S)


class _Away:
    """What is waited for, and since when."""

    def __init__(self) -> None:
        self._what, self._since_at = "", datetime.now(UTC)

    def since(self, what: str) -> str:
        """In words; the time is that of the first time in a row that this was away."""
        if what != self._what:
            self._what, self._since_at = what, datetime.now(UTC)
        return since(self._since_at, what)

    def end(self) -> None:
        self._what = ""


def _look(conn: Connection, run_id: int) -> RunStatistics:
    return with_refusals(conn, statistics_of(conn, run_id))
