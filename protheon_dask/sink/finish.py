"""Indexes, foreign keys and statistics of the target tables, once, when a run's rows are all there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from protheon_dask.pipelines.table import ForeignKey, Table
from protheon_dask.postgres import NO_TIMEOUTS, is_passing, reason_of, translate
from protheon_dask.sink.catalog import Connection, has_foreign_key, has_index, identifier_of
from protheon_dask.sink.targets import ADVISORY_CLASS, LOCK_TARGETS

def finish_tables(conn: Connection, tables: Sequence[Table]) -> list[str]:
    """Make the indexes and foreign keys that are missing; return what could not be made, and why.

    Raises:    LedgerUnavailable: the server does not answer, or refused for a passing reason; ask again.
    Guarantee: idempotent; each index and key stands or fails alone (a transaction, or a savepoint of the caller's).
               Writers of the tables wait meanwhile.
    """
    problems: list[str] = []
    for table in tables:
        for index in table.indexes:
            problems += _try(conn, f"index on {table.name} ({', '.join(index)})", table, index)
    for table in tables:
        for key in table.foreign_keys:
            what = f"foreign key of {table.name} ({', '.join(key.columns)}) to {key.other_table} ({', '.join(key.other_columns)})"
            problems += _try(conn, what, table, key)
    return problems


def analyze_tables(conn: Connection, tables: Sequence[Table]) -> list[str]:
    """Give the planner statistics of all rows; return what could not be done, and why. Raises and guarantees as finish_tables."""
    problems: list[str] = []
    for table in tables:
        problems += _try(conn, f"statistics of {table.name}", table, None)
    return problems


def _try(conn: Connection, what: str, table: Table, wanted: tuple[str, ...] | ForeignKey | None) -> list[str]:
    try:
        with conn.transaction():
            conn.execute(NO_TIMEOUTS)
            conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_TARGETS))
            match wanted:
                case ForeignKey():
                    _make_foreign_key(conn, table, wanted)
                case tuple():
                    _make_index(conn, table, wanted)
                case None:
                    conn.execute(sql.SQL("ANALYZE {}").format(identifier_of(table.name)))
    except psycopg.Error as exc:
        if is_passing(exc):
            raise translate(exc) from exc
        return [f"{what} could not be made: {reason_of(exc)}"]
    return []


def _make_index(conn: Connection, table: Table, columns: tuple[str, ...]) -> None:
    name = identifier_of(table.name)
    if not has_index(conn, name, columns):
        conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(name, _list(columns)))


def _make_foreign_key(conn: Connection, table: Table, key: ForeignKey) -> None:
    name = identifier_of(table.name)
    if not has_foreign_key(conn, name, key):
        statement = sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({})")
        conn.execute(statement.format(name, _list(key.columns), identifier_of(key.other_table), _list(key.other_columns)))


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
