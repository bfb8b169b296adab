"""Indexes, foreign keys and statistics of the target tables, once, when a run's rows are all there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from protheon_dask.pipelines.table import ForeignKey, Table
from protheon_dask.sink.catalog import Connection
from protheon_dask.sink.faults import is_passing, reason_of, translate
from protheon_dask.sink.targets import ADVISORY_CLASS, LOCK_TARGETS

# Params: relation regclass text, columns text[]. A row: there is a whole, valid index that begins with these columns.
HAS_INDEX: Final = """
SELECT FROM pg_catalog.pg_index AS i
 WHERE i.indrelid = %s::regclass AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts >= cardinality(%s::text[])
   AND %s::text[] = ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ordinal)
                            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                           WHERE k.ordinal <= cardinality(%s::text[]) ORDER BY k.ordinal)
"""

# Params: relation, columns text[], other relation, other columns text[]. A row: this foreign key is there.
HAS_FOREIGN_KEY: Final = """
SELECT FROM pg_catalog.pg_constraint AS c
 WHERE c.contype = 'f' AND c.conrelid = %s::regclass
   AND %s::text[] = ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, ordinal)
                            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum ORDER BY k.ordinal)
   AND c.confrelid = %s::regclass
   AND %s::text[] = ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, ordinal)
                            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum ORDER BY k.ordinal)
"""


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
            conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_TARGETS))
            match wanted:
                case ForeignKey():
                    _make_foreign_key(conn, table, wanted)
                case tuple():
                    _make_index(conn, table, wanted)
                case None:
                    conn.execute(sql.SQL("ANALYZE {}").format(_identifier(table.name)))
    except psycopg.Error as exc:
        if is_passing(exc):
            raise translate(exc) from exc
        return [f"{what} could not be made: {reason_of(exc)}"]
    return []


def _make_index(conn: Connection, table: Table, columns: tuple[str, ...]) -> None:
    name = _identifier(table.name)
    if conn.execute(HAS_INDEX, (name.as_string(conn), *[list(columns)] * 3)).fetchone() is None:
        conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(name, _list(columns)))


def _make_foreign_key(conn: Connection, table: Table, key: ForeignKey) -> None:
    name, other = _identifier(table.name), _identifier(key.other_table)
    params = (name.as_string(conn), list(key.columns), other.as_string(conn), list(key.other_columns))
    if conn.execute(HAS_FOREIGN_KEY, params).fetchone() is None:
        statement = sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({})")
        conn.execute(statement.format(name, _list(key.columns), other, _list(key.other_columns)))


def _identifier(name: str) -> sql.Identifier:
    """A name as Table reads it: ``schema.table``, or a table of ``public``."""
    schema, dot, relation = name.partition(".")
    return sql.Identifier(schema, relation) if dot else sql.Identifier("public", name)


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
