"""What people ask of the ledger. Rows are dictionaries with the ledger's column names; nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from protheon_dask.errors import ConfigError
from protheon_dask.ledger.replays import FETCH_ROWS
from protheon_dask.ledger.rows import rows
from protheon_dask.ledger.runs import existing_run
from protheon_dask.ledger.statements import statement
from protheon_dask.model import REFUSALS_LOOKED

LIMIT = 1_000
"""Rows of a report that was not asked for more: a run may have millions of chunks."""

OWN_SQL = ("0A", "0L", "20", "21", "22", "23", "25", "26", "2B", "2D", "2F", "34", "38", "39", "3B", "3F", "42", "44", "54", "55000", "P0")
"""SQLSTATE classes that the text of a query is at fault for (PostgreSQL, appendix A)."""

Report = list[dict[str, Any]]


def statistics(conn: psycopg.Connection, run_id: int) -> dict[str, Any] | None:
    """One run in numbers (telemetry.statistics.RunStatistics without its tables), None where there is no such run."""
    found = rows(conn, "run_statistics", {"run_id": run_id, "now": None})
    return found[0] if found else None


def row_counts(conn: psycopg.Connection, run_id: int) -> Report:
    """Rows by table over a run's loads."""
    return list(rows(conn, "run_rows", {"run_id": run_id}))


def runs(conn: psycopg.Connection, limit: int = 20) -> Report:
    """The newest runs, newest first."""
    return list(rows(conn, "report_runs", {"limit": limit}))


def files(conn: psycopg.Connection, run_id: int, limit: int | None = None) -> Report:
    """The run's loads with their state and counts."""
    existing_run(conn, run_id)
    return list(rows(conn, "report_files", {"run_id": run_id, "limit": limit}))


def chunks(conn: psycopg.Connection, run_id: int, limit: int = LIMIT) -> Report:
    """The run's chunks with the state of their tasks, in the order of files and lines."""
    existing_run(conn, run_id)
    return list(rows(conn, "report_chunks", {"run_id": run_id, "limit": limit}))


def attempts(conn: psycopg.Connection, run_id: int, limit: int = LIMIT) -> Report:
    """Attempts at the run's chunks, newest first."""
    existing_run(conn, run_id)
    return list(rows(conn, "report_attempts", {"run_id": run_id, "limit": limit}))


def rejects(
    conn: psycopg.Connection, run_id: int, limit: int | None = LIMIT, reject_id: int | None = None, *, replayed: bool = True
) -> Report:
    """Refused lines of the run's files, those that were not replayed first, in the order of files and lines, or the one with this id.

    replayed False: only what is still refused.
    """
    existing_run(conn, run_id)
    params = {**_REJECTS, "run_id": run_id, "limit": limit, "reject_id": reject_id, "replayed": replayed}
    return list(rows(conn, "report_rejects", params))


def replayed(conn: psycopg.Connection, run_id: int) -> Report:
    """How many rejects of the run's files which replay took up: (run_id, n), the latest replay first."""
    existing_run(conn, run_id)
    return list(rows(conn, "count_replayed", {"run_id": run_id}))


def refusals(conn: psycopg.Connection, run_id: int, limit: int) -> Report:
    """Why lines of the run's files are still refused, the commonest reason first, among the first REFUSALS_LOOKED rejects."""
    return list(rows(conn, "report_refusals", {"run_id": run_id, "look": REFUSALS_LOOKED, "limit": limit}))


def stream_rejects(conn: psycopg.Connection, run_id: int, *, replayed: bool) -> Iterator[dict[str, Any]]:
    """All that rejects() gives, by a cursor of the server's: memory is a few hundred lines. replayed False: only what is still refused.

    The caller is in a transaction.
    """
    existing_run(conn, run_id)
    with conn.cursor("rejects", row_factory=dict_row) as cursor:
        cursor.itersize = FETCH_ROWS
        yield from cursor.execute(statement("report_rejects"), {**_REJECTS, "run_id": run_id, "replayed": replayed})


NAMED: Mapping[str, str] = {
    "files": "report_files",
    "chunks": "report_chunks",
    "attempts": "report_attempts",
    "rejects": "report_rejects",
    "dead_letters": "report_dead_letters",
    "runs": "report_runs",
}
"""Reports that are asked for by name, and their statements."""


def stream(conn: psycopg.Connection, name: str, run_id: int, limit: int | None, *, everything: bool) -> Iterator[dict[str, Any]]:
    """Rows of one of NAMED by a cursor of the server's: memory is a few hundred rows. limit None: all.

    run_id:     of a run that there is; runs takes no notice of it.
    everything: of rejects those that were replayed, too; of dead letters those that were replayed or purged.
    The caller is in a transaction.
    """
    params = {"run_id": run_id, "limit": limit}
    more = {"rejects": {"reject_id": None, "replayed": everything}, "dead_letters": {"task_id": None, "queue": False, "closed": everything}}
    with conn.cursor("report", row_factory=dict_row) as cursor:
        cursor.itersize = FETCH_ROWS
        yield from cursor.execute(statement(NAMED[name]), {**params, **more.get(name, {})})


_REJECTS: dict[str, Any] = {"limit": None, "reject_id": None, "replayed": True}


def verify(conn: psycopg.Connection, run_id: int) -> list[tuple[int, str]]:
    """What does not add up in a run: number of the check (LEDGER_CHECKS, from 1) and words; empty: each line is accounted for once.

    Proved from the ledger: manifests without a gap, one succeeded attempt for each chunk, lines and rows by their identities,
    as many reject rows as rejected lines, and nothing dead, cancelled, unfinished, damaged or changed; each replayed reject closed
    by one chunk that succeeded, and no line refused twice.
    """
    existing_run(conn, run_id)
    return [(row["check_no"], row["finding"]) for name in ("verify_run", "verify_replays") for row in rows(conn, name, {"run_id": run_id})]


def undone(conn: psycopg.Connection, run_id: int) -> Report:
    """The run's loads that are undone, or whose undo has begun (undone_at NULL)."""
    return list(rows(conn, "undone_loads", {"run_id": run_id}))


def rows_by_chunk(conn: psycopg.Connection, run_id: int) -> Report:
    """What each chunk of the run left in each table, as sql/rows_by_chunk.sql says."""
    return list(rows(conn, "rows_by_chunk", {"run_id": run_id}))


def rows_of_table(conn: psycopg.Connection, table: str) -> tuple[int, int, int]:
    """Rows that all loads together, but those that are undone, inserted into a table with provenance, updated, updated without it."""
    [row] = rows(conn, "rows_of_table", {"table_name": table})
    return row["inserted"], row["updated"], row["unmarked"]


def known_chunks(conn: psycopg.Connection, task_ids: Sequence[int]) -> set[int]:
    """Which of these are chunks of this ledger."""
    return {row["task_id"] for row in rows(conn, "known_chunks", {"task_ids": list(task_ids)})}


def status(conn: psycopg.Connection) -> dict[str, Any]:
    """The ledger itself: its id, epoch, migration, size and open work."""
    [row] = rows(conn, "report_status")
    return row


def query(conn: psycopg.Connection, sql: str, asked_by: str = "protheon sql") -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a person's own SQL, one statement; names of the columns (none where nothing comes back) and the rows.

    asked_by:  what the person called, for messages.
    Raises:    ConfigError: it would change something, or PostgreSQL does not take it.
    Guarantee: reads only. A pipeline speaks the protocol that takes a single statement, so that no COMMIT in the text
               ends the read-only transaction before the rest of it.
    """
    conn.read_only = True
    try:
        with conn.transaction():
            conn.execute("SELECT set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true)")  # as psycopg reads
            with conn.pipeline():
                cursor = conn.execute(sql.encode())
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()
    except psycopg.errors.ReadOnlySqlTransaction as exc:
        raise ConfigError(f"{asked_by} only reads: use psql for changes (protheon db url, protheon db serve)") from exc
    except psycopg.Error as exc:
        if exc.sqlstate is None and isinstance(exc, psycopg.OperationalError):
            if conn.info.transaction_status is psycopg.pq.TransactionStatus.ACTIVE:  # it answers, but a COPY never ends a pipeline
                raise ConfigError(f"{asked_by} takes no COPY: use psql for it (protheon db url, protheon db serve)") from exc
            raise  # the connection, not the statement
        if exc.sqlstate is not None and not exc.sqlstate.startswith(OWN_SQL):
            raise
        text = exc.diag.message_primary or str(exc)
        raise ConfigError(f"{text} (SQLSTATE {exc.sqlstate})" if exc.sqlstate else text) from exc
