"""Rows into temporary tables that are like a pipeline's, to see how fast that goes: nothing of it stays, and nobody else sees it.

A temporary table has the columns and the primary key of the pipeline's, and no write-ahead log, other indexes or rows from before: what
is measured is the best that the server can do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from protheon_dask.pipelines.table import Table
from protheon_dask.postgres import NO_TIMEOUTS
from protheon_dask.sink.catalog import Connection, Target, describe
from protheon_dask.sink.targets import create_table

SCHEMA_OF_SESSION: Final = "SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = pg_catalog.pg_my_temp_schema()"


@contextmanager
def trial_tables(conn: Connection, tables: Sequence[Table], *, values_are_exact: bool = False) -> Iterator[tuple[Target, ...]]:
    """Make temporary tables like these, in a transaction for the time of a block, which is rolled back. conn: in no transaction.

    Raises: psycopg.Error: the role may make no temporary tables, or a type of a column is not there.
    """
    with conn.transaction(force_rollback=True):
        conn.execute(NO_TIMEOUTS)
        conn.execute("CREATE TEMPORARY TABLE protheon_trial ()")  # a session has its schema from its first temporary table on
        row = conn.execute(SCHEMA_OF_SESSION).fetchone()
        assert row is not None, "the session has its schema by now"
        there = [_there(table, str(row[0]), number) for number, table in enumerate(tables)]
        for table in there:
            create_table(conn, table)
        yield describe(conn, there, values_are_exact=values_are_exact)


def _there(table: Table, schema: str, number: int) -> Table:
    return replace(table, name=f"{schema}.protheon_trial_{number}", indexes=(), foreign_keys=())


__all__ = ["trial_tables"]
