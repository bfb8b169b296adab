"""What the faces call: settings, the database, the local cluster, reports. No face imports the rooms below."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from protheon_dask.broker.wire import DeadLetters
from protheon_dask.config import Effective, scheme_and_host
from protheon_dask.errors import ConfigError
from protheon_dask.ledger import dead_letters, reports, runs
from protheon_dask.ledger.connect import opened as connection
from protheon_dask.ledger.migrate import applied, check_current
from protheon_dask.ledger.migrate import migrate as migrate_ledger
from protheon_dask.model import Refusal, RunState
from protheon_dask.run import settings as rim
from protheon_dask.run import watching
from protheon_dask.run.dead_letters import (
    count_dead_letters,
    list_dead_letters,
    purge_dead_letters,
    show_dead_letters,
    task_states,
)
from protheon_dask.run.lab import Lab, LabServer, check_lab
from protheon_dask.run.link import dashboard_page
from protheon_dask.run.local import Database, LocalCluster, SeveralMasters, embedded_server, find_local, standing_database
from protheon_dask.run.master import Master
from protheon_dask.run.notebooks import Copies, copy_notebooks
from protheon_dask.run.rejects import Exported, StillRefused, export, refusals_of, still_refused, with_refusals
from protheon_dask.run.report import check_target, page_of, told_story, write_page
from protheon_dask.run.settings import read_settings
from protheon_dask.run.standing import MasterWish, StandingMaster
from protheon_dask.run.statistics import statistics_of, was_interrupted
from protheon_dask.run.submitting import Loading, loading
from protheon_dask.run.trust.identity import joined_master
from protheon_dask.run.undo import UndoneLoads, UndonePlan, plan_undo, undo_load
from protheon_dask.run.verify import TableCheck, Verdict, Verification, verify
from protheon_dask.telemetry.statistics import RunStatistics

APPLICATION = "protheon-cli"
LIBPQ_VARIABLES = ("PGHOST", "PGSERVICE", "PGDATABASE")
EMBEDDED_DIR = "postgres"
SERVED_LOOK_S = 0.5
"""Period of the look whether the server that is served still runs."""

__all__ = [
    "Copies",
    "Database",
    "DeadLetters",
    "Exported",
    "Lab",
    "Loading",
    "LocalCluster",
    "Master",
    "MasterWish",
    "SeveralMasters",
    "StandingMaster",
    "StillRefused",
    "TableCheck",
    "UndoneLoads",
    "UndonePlan",
    "Verdict",
    "Verification",
    "check_lab",
    "check_target",
    "copy_notebooks",
    "count_dead_letters",
    "dashboard_page",
    "export",
    "joined_master",
    "list_dead_letters",
    "loading",
    "page_of",
    "plan_undo",
    "purge_dead_letters",
    "read_settings",
    "show_dead_letters",
    "still_refused",
    "task_states",
    "told_story",
    "undo_load",
    "was_interrupted",
    "write_page",
]


def resolve_database(effective: Effective, into: str | None, *, embedded: bool = False) -> Database:
    """Choose the database: --into, PROTHEON_DATABASE_URL (or the file's), DATABASE_URL, libpq's own, that of a master that stands here,
    else the embedded one.

    direct_url is the setting beside database_url: where another place names the database, it is most likely of another one.
    """
    settings, env = effective.settings, rim.environment()
    if embedded:
        return _embedded(effective)
    if into:
        return Database(_checked(into, "--into"), settings.direct_url if effective.origins["direct_url"] == "flag" else "", "--into")
    if settings.database_url:
        origin = {"file": "the settings file", "flag": "settings"}.get(named := effective.origins["database_url"], named)
        return Database(_checked(settings.database_url, origin), settings.direct_url, origin)
    if env.get("DATABASE_URL"):
        return Database(_checked(env["DATABASE_URL"], "DATABASE_URL"), "", "DATABASE_URL")
    for variable in LIBPQ_VARIABLES:
        if env.get(variable):
            return Database("postgresql://", "", f"libpq ({variable})")
    return standing_database(rim.home_of(settings)) or replace(_embedded(effective), notice=_not_asked(effective))


def _embedded(effective: Effective) -> Database:
    directory = rim.home_of(effective.settings) / EMBEDDED_DIR
    return Database("", "", f"embedded, in {directory}", directory)


def _not_asked(effective: Effective) -> str:
    """Which cluster of this machine's the embedded database is not of, where nobody named one; empty: it is of none."""
    try:
        master = joined_master(effective.settings)
    except ConfigError:  # damaged: whoever works by it says so
        return ""
    which = "no database is named: this is the embedded one of this machine"
    if master:
        return f'{which}, which is a host of {master}; what is loaded there is seen there, or in Python by protheon.connect("{master}")'
    if (rim.home_of(effective.settings) / rim.AUTHORITY_DIR).is_dir():
        return f"{which}, on which no master stands now: start `protheon master`, or name its database (--into, PROTHEON_DATABASE_URL)"
    return ""


def _checked(url: str, origin: str) -> str:
    if url.startswith(("postgresql://", "postgres://")) or ("://" not in url and "=" in url):
        return url
    scheme, named = url.partition("://")[0], scheme_and_host(url)
    if named and scheme.startswith(("postgresql+", "postgres+")):
        told = f"{named} names a driver of SQLAlchemy's, which PostgreSQL's own URLs do not know: write postgresql:// for {scheme}://"
        raise ConfigError(f"{origin}: {told}")
    told = f"{named or 'its text (not shown: it may hold a password)'} is not a PostgreSQL URL"
    raise ConfigError(f"{origin}: {told}: give postgresql://user@host:5432/database")


@contextmanager
def opened(effective: Effective, database: Database) -> Iterator[str]:
    """A URL that answers: the embedded server is started for the time of the block if it is down."""
    if database.embedded_dir is None:
        yield database.url
        return
    postgres = embedded_server(effective.settings, database.embedded_dir)
    try:
        yield postgres.start()
    finally:
        postgres.stop()


def serve_embedded(effective: Effective, database: Database) -> Generator[str]:
    """Keep the embedded server running until the iterator is closed; its URL, and the new one where it was started anew.

    One that another command started is used, and started anew when that command has ended it.
    Raises: ConfigError: the database is not the embedded one.
    """
    if database.embedded_dir is None:
        told = "runs without this command; `protheon db serve --database embedded` serves the embedded one"
        raise ConfigError(f"the database is named by {database.origin} and {told}")
    postgres = embedded_server(effective.settings, database.embedded_dir)
    try:
        while True:
            yield postgres.start()
            while postgres.is_running():
                time.sleep(SERVED_LOOK_S)
    finally:
        postgres.stop()


def local(
    effective: Effective,
    database: Database,
    *,
    workers: int | None = None,
    force_own: bool = False,
    takes_over: bool = False,
    on_event: Callable[[str], None] = lambda _: None,
) -> LocalCluster:
    """A cluster on this machine for the time of a block; a running local master is used unless force_own.

    takes_over: the one that was used has ended just now, and may still hold the lead: it is waited for.
    """
    return LocalCluster(effective, database, workers=workers, force_own=force_own, takes_over=takes_over, on_event=on_event)


def lab(
    cluster: LocalCluster,
    database: Database,
    directory: Path,
    *,
    first: str | None = None,
    port: int | None = None,
    opens_browser: bool = False,
) -> Lab:
    """A JupyterLab in this directory whose notebooks find the cluster, and whose Dask panel shows it.

    database: the one that the cluster was made for. first: the notebook that is opened at first.
    """
    return Lab(LabServer(cluster.settings, database.url, cluster.dashboard_link, directory, port, opens_browser, first))


def running_master(effective: Effective, url: str) -> Master | None:
    """The local master that leads the ledger at url, if one runs."""
    return find_local(rim.home_of(effective.settings), url)


REPORTS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "files": reports.files,
    "chunks": reports.chunks,
    "attempts": reports.attempts,
    "rejects": reports.rejects,
    "replayed": reports.replayed,
    "dead_letters": dead_letters.listed,
}


def report(url: str, name: str, run_id: int | None = None, **filters: Any) -> list[dict[str, Any]]:
    """Rows of a report from the ledger alone; run_id None is the latest. Raises NotFound, MigrationPending, LedgerUnavailable."""
    with connection(url, application=APPLICATION) as conn:
        if name == "runs" and not applied(conn):
            return []
        check_current(conn)
        if name == "runs":
            return reports.runs(conn, **filters)
        return REPORTS[name](conn, run_id or runs.latest_run(conn), **filters)


def run_statistics(url: str, run_id: int | None = None) -> RunStatistics:
    """A run in numbers; None is the latest."""
    with connection(url, application=APPLICATION) as conn:
        check_current(conn)
        return with_refusals(conn, statistics_of(conn, run_id or runs.latest_run(conn)))


def run_picture(effective: Effective, url: str, run_id: int | None = None) -> RunStatistics:
    """A run in numbers, and what it waits for as its master says; None is the latest."""
    home = rim.home_of(effective.settings)
    with watching.outages_dated(home, url):
        known = run_statistics(url, run_id)
    if known.state is not RunState.RUNNING:
        return known
    return replace(known, reason=watching.waits(home, url, [known.run]).get(known.run, known.reason))


def run_list(effective: Effective, url: str, limit: int) -> list[dict[str, Any]]:
    """The newest runs, newest first; waits_for: what a running one waits for, as its master says."""
    home = rim.home_of(effective.settings)
    with watching.outages_dated(home, url):
        rows = report(url, "runs", limit=limit)
    waits = watching.waits(home, url, [row["run"] for row in rows if row["state"] == RunState.RUNNING])
    return [{**row, "waits_for": waits.get(row["run"])} for row in rows]


def watch_run(effective: Effective, url: str, run_id: int | None = None) -> Iterator[RunStatistics]:
    """A run at once and whenever it changed, until it is final or paused; None is the latest. What is away is waited for, and named."""
    return watching.watch_run(rim.home_of(effective.settings), url, run_id)


def refusals(url: str, run_id: int | None = None) -> tuple[Refusal, ...]:
    """Why lines of a run are still refused; None is the latest."""
    with connection(url, application=APPLICATION) as conn:
        check_current(conn)
        return refusals_of(conn, run_id or runs.latest_run(conn))


def verify_run(
    url: str, run_id: int | None = None, *, deep: bool = False, on_rows: Callable[[str, int], None] = lambda *_: None
) -> Verification:
    """Prove that every line of a run is accounted for once; deep: and that its rows are in their tables, as they were sent."""
    return verify(url, run_id, deep=deep, on_rows=on_rows)


def query(url: str, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a person's own SQL; column names and rows."""
    with connection(url, application="protheon-sql") as conn:
        return reports.query(conn, sql)


def migrate(url: str) -> list[str]:
    """Bring the ledger up to date; the names of what ran."""
    return migrate_ledger(url)


def ledger_status(url: str) -> dict[str, Any]:
    """The ledger itself. Raises MigrationPending where there is none yet, or an older one."""
    with connection(url, application=APPLICATION) as conn:
        check_current(conn, for_runs=False)
        return {**reports.status(conn), "migration": applied(conn)}


def pause_run(url: str, run_id: int | None = None, reason: str = "") -> RunStatistics:
    """Pause a run in the ledger, without a master; idempotent."""
    with connection(url, application=APPLICATION) as conn:
        check_current(conn)
        number = runs.existing_run(conn, run_id)  # NotFound before anything is written
        runs.pause_run(conn, number, reason or runs.PAUSED_BY_HAND)
        return statistics_of(conn, number)


def cancel_run(url: str, run_id: int | None = None) -> RunStatistics:
    """Cancel a run in the ledger, without a master; idempotent."""
    with connection(url, application=APPLICATION) as conn:
        check_current(conn)
        number = runs.existing_run(conn, run_id)  # NotFound before anything is written
        with conn.transaction():
            runs.cancel_run(conn, number, runs.CANCELLED_BY_HAND)
        return statistics_of(conn, number)
