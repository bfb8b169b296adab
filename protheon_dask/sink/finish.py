"""Indexes, foreign keys and statistics of the target tables, once, when a run's rows are all there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from protheon_dask.pipelines.table import ForeignKey, Table
from protheon_dask.postgres import NO_TIMEOUTS, is_passing, reason_of, translate
from protheon_dask.sink.catalog import Connection, column_list, has_foreign_key, has_index, identifier_of
from protheon_dask.sink.targets import ADVISORY_CLASS, LOCK_FINISH

ORPHAN_CHECK: Final = "SELECT set_config('client_connection_check_interval', '5s', true)"
"""The server looks whether we still live: the index of a broker that was killed is not built to its end, to be rolled back then."""

# Params: backend's process id, twice. Returns one row: (phase, done, total) of the index that it builds, or nulls, and who blocks it.
PROGRESS: Final = """
SELECT p.phase,
       CASE WHEN p.phase LIKE '%%tuples%%' THEN p.tuples_done ELSE p.blocks_done END,
       CASE WHEN p.phase LIKE '%%tuples%%' THEN p.tuples_total ELSE p.blocks_total END,
       ARRAY(SELECT format('%%s (%%s, %%s)', a.pid, coalesce(nullif(a.application_name, ''), 'unnamed'), coalesce(a.state, 'hidden'))
               FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = ANY(pg_catalog.pg_blocking_pids(%s)) ORDER BY a.pid)
  FROM (VALUES (%s::int)) AS backend (pid)
  LEFT JOIN pg_catalog.pg_stat_progress_create_index AS p USING (pid)
"""


@dataclass(frozen=True, slots=True)
class Making:
    """What is being made at the moment, and by which backend."""

    what: str  # for people: "index on shop.order (at), 2 of 3"
    backend_pid: int


def finish_tables(conn: Connection, tables: Sequence[Table], tell: Callable[[Making], None] = lambda _: None) -> list[str]:
    """Make the indexes and foreign keys that are missing; return what could not be made, and why.

    tell:      is called before each that is to be made.
    Raises:    LedgerUnavailable: the server does not answer, or refused for a passing reason; ask again.
    Guarantee: idempotent; each index and key stands or fails alone (a transaction, or a savepoint of the caller's).
               Writers of the tables wait meanwhile. An index that is not valid counts as missing, and is left as it is.
    """
    pid = conn.info.backend_pid
    problems: list[str] = []
    declared: list[tuple[Table, tuple[str, ...] | ForeignKey]] = [(table, columns) for table in tables for columns in table.indexes]
    declared += [(table, key) for table in tables for key in table.foreign_keys]
    wanted = [(table, item) for table, item in declared if _is_missing(conn, table, item)]
    for no, (table, item) in enumerate(wanted, start=1):
        of = f"{no} of {len(wanted)}"
        if isinstance(item, ForeignKey):
            what, where = "foreign key", f"of {table.name} ({_names(item.columns)}) to {item.other_table} ({_names(item.other_columns)})"
        else:
            what, where = "index", f"on {table.name} ({_names(item)})"
        tell(Making(f"{what} {where}, {of}", pid))
        problems += _try(conn, f"{what} {where}", table, item)
    return problems


def progress_of(conn: Connection, making: Making) -> str:
    """Say how far it is, in words, seen from another connection: its phase and per cent, and for whom it waits."""
    phase, done, total, blockers = conn.execute(PROGRESS, (making.backend_pid, making.backend_pid)).fetchone() or (None, 0, 0, [])
    said = f"making {making.what}"
    if blockers:
        return f"{said}: waits for a lock of session {', '.join(blockers)}"
    if phase is None:
        return said
    share = f", {100 * done // total}%" if total else ""
    return f"{said}: {phase.removeprefix('building index: ')}{share}"


def cancel(conn: Connection, making: Making) -> None:
    """End the statement that makes it: its run has ended."""
    conn.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (making.backend_pid,))


def analyze_tables(conn: Connection, tables: Sequence[Table]) -> list[str]:
    """Give the planner statistics of all rows; return what could not be done, and why. Raises and guarantees as finish_tables."""
    problems: list[str] = []
    for table in tables:
        problems += _try(conn, f"statistics of {table.name}", table, None)
    return problems


def _is_missing(conn: Connection, table: Table, wanted: tuple[str, ...] | ForeignKey) -> bool:
    """Tell whether it is to be made; where a table is gone it is, and then says so."""
    name = identifier_of(table.name)
    try:
        with conn.transaction():
            return not (has_foreign_key(conn, name, wanted) if isinstance(wanted, ForeignKey) else has_index(conn, name, wanted))
    except psycopg.ProgrammingError:
        return True
    except psycopg.Error as exc:
        raise translate(exc) from exc


def _try(conn: Connection, what: str, table: Table, wanted: tuple[str, ...] | ForeignKey | None) -> list[str]:
    try:
        with conn.transaction():
            conn.execute(NO_TIMEOUTS)
            with contextlib.suppress(psycopg.errors.InvalidParameterValue), conn.transaction():  # a server on Windows cannot look
                conn.execute(ORPHAN_CHECK)
            match wanted:
                case ForeignKey():
                    _take_turns(conn)
                    _make_foreign_key(conn, table, wanted)
                case tuple():
                    _take_turns(conn)
                    _make_index(conn, table, wanted)
                case None:
                    conn.execute(sql.SQL("ANALYZE {}").format(identifier_of(table.name)))
    except psycopg.Error as exc:
        if is_passing(exc):
            raise translate(exc) from exc
        return [f"{what} could not be made: {reason_of(exc)}"]
    return []


def _take_turns(conn: Connection) -> None:
    """Two brokers, one after the other, do not make one index twice."""
    conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_FINISH))


def _make_index(conn: Connection, table: Table, columns: tuple[str, ...]) -> None:
    name = identifier_of(table.name)
    if not has_index(conn, name, columns):
        conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(name, column_list(columns)))


def _make_foreign_key(conn: Connection, table: Table, key: ForeignKey) -> None:
    name = identifier_of(table.name)
    if not has_foreign_key(conn, name, key):
        # Deferrable: the next load may bring rows before those that they refer to, in the order of the pipeline's tables.
        statement = sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}) DEFERRABLE")
        conn.execute(statement.format(name, column_list(key.columns), identifier_of(key.other_table), column_list(key.other_columns)))


def _names(columns: Sequence[str]) -> str:
    return ", ".join(columns)
