"""Staging tables: temporary tables of the chunk's transaction, merged into their targets by the tables' rules.

Each has its target's types, NOT NULL, CHECK and defaults, so that a bad row is refused with its line, and numbers its
rows, so that the merge knows which came first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import itemgetter
from typing import Any, Final

from psycopg import sql

from protheon_dask.pipelines.table import Table
from protheon_dask.sink.catalog import Connection, Target
from protheon_dask.sink.checksum import Comparable
from protheon_dask.sink.copy import CopyWriter
from protheon_dask.sink.merge import ROW_NO, dropped_statement, merge_statement

INT8_OID: Final = 20

COMPARABLE: Final = frozenset({int, date, datetime})
"""Types that Python orders as PostgreSQL does; text has collations, floats and numerics have NaN."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of the rows in a staging table. staged is counted there, not by whoever sent them."""

    staged: int
    inserted: int
    updated: int


class Staging:
    """The staging table of one target. Not thread-safe; lives as long as the chunk's transaction."""

    def __init__(self, conn: Connection, target: Target, number: int, compared: Comparable | None = None) -> None:
        self._conn, self._target = conn, target
        self.name = f"protheon_stage_{number}"
        self._identifier = sql.Identifier("pg_temp", self.name)
        self._merge = merge_statement(target, self._identifier, conn.info.server_version)
        self._writer = CopyWriter(conn, target, self._identifier, extra=[(ROW_NO, INT8_OID)], compared=compared)
        self._n_rows = 0
        self.suspect: Sequence[Any] | None = None
        """After a refusal by COPY: the row that seems to be the cause."""
        self.row_sum = 0
        """As the writer's: of the rows that were staged by the last write."""

    def create(self) -> sql.Composed:
        """Write the statements that make the table; it is dropped with the transaction."""
        like = sql.SQL(
            "CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING DEFAULTS INCLUDING GENERATED, {} bigint) ON COMMIT DROP"
        ).format(self._identifier, self._target.identifier, sql.Identifier(ROW_NO))
        drop_not_null = sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL")
        nullable = [drop_not_null.format(self._identifier, sql.Identifier(name)) for name in self._target.foreign_identity]
        return sql.SQL("; ").join([like, *nullable])

    def write(self, rows: Sequence[Sequence[Any]], own: tuple[Any, ...]) -> int:
        """COPY rows into the staging table and return how many of them were left out, since others of this batch beat them.

        own: values of the sink's own columns, the same for each row.
        """
        n_given = len(rows)
        rows = one_of_each_key(self._target.table, rows)
        first_no = self._n_rows + 1
        self._n_rows += len(rows)  # numbers need only rise: those of rows that are rolled back stay unused
        self.suspect = None
        try:
            self._writer.write(rows, ((*row, *own, number) for number, row in enumerate(rows, first_no)))
            self.row_sum = self._writer.row_sum
        finally:
            if self._writer.suspect is not None:
                self.suspect = rows[self._writer.suspect]
        return n_given - len(rows)

    def merge(self) -> Merged:
        """Merge what is staged into the target."""
        row = self._conn.execute(self._merge, prepare=False).fetchone()
        assert row is not None  # an aggregate always has its row
        return Merged(*map(int, row))

    def count_dropped(self) -> int:
        """Count the staged rows of whose key the target has no row: only a trigger can have dropped them from the merge."""
        row = self._conn.execute(dropped_statement(self._target, self._identifier), prepare=False).fetchone()
        assert row is not None  # an aggregate always has its row
        return int(row[0])

    def empty(self) -> None:
        self._conn.execute(sql.SQL("TRUNCATE {}").format(self._identifier), prepare=False)


def one_of_each_key(table: Table, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Drop rows that other rows beat for sure by the table's rule; the merge decides the rest.

    Guarantee: pure. Where Python might compare keys or ranks otherwise than the database, all rows stay.
    """
    if table.on_conflict == "add" or len(rows) < 2:
        return rows
    names = [column.name for column in table.columns]
    key_of = itemgetter(*map(names.index, table.primary_key))
    try:
        if table.on_conflict == "ignore":
            return list(dict(zip(map(key_of, reversed(rows)), reversed(rows), strict=True)).values())[::-1]
        if table.newer_by is None:
            return list(dict(zip(map(key_of, rows), rows, strict=True)).values())
        rank_of = itemgetter(names.index(table.newer_by))
        if not set(map(type, map(rank_of, rows))) <= COMPARABLE:
            return rows
        best: dict[Any, Sequence[Any]] = {}
        for key, row in zip(map(key_of, rows), rows, strict=True):
            held = best.setdefault(key, row)
            if held is not row and rank_of(row) > rank_of(held):
                best[key] = row
        return list(best.values())
    except (TypeError, LookupError):  # an unhashable key, naive and aware times, a row too short: the database will tell
        return rows
