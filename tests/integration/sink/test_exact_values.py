"""Values of which a pipeline promises that they are exact are sent by psycopg's own encoders; the promise of pgcr holds."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.pipelines.table import Column, Table
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.copy import CopyWriter
from protheon_dask.sink.targets import ensure_tables

TABLE = Table(name="public.exact", columns=(Column("i", "integer"), Column("s", "smallint"), Column("b", "boolean")))
ROWS = [(2**31 - 1, 2**15 - 1, True), (-(2**31), -(2**15), False), (None, None, None), (0, 0, True)]


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


def test_exact_values_arrive_as_they_are(conn: psycopg.Connection) -> None:
    with conn.transaction():
        ensure_tables(conn, [TABLE])
        [target] = describe(conn, [TABLE], values_are_exact=True)
        assert CopyWriter(conn, target, target.identifier).write(ROWS, ROWS) == len(ROWS)
    assert conn.execute("SELECT * FROM public.exact ORDER BY ctid").fetchall() == ROWS


def test_the_promise_of_pgcr_holds_for_every_value_of_its_plainest_columns() -> None:
    lines = list(sample_lines(300))
    at_the_edge = lines[0].replace(b'"kills":', b'"kills":2147483648,"x":', 1)
    batch = pgcr.open(ChunkContext(1, 1, "")).transform([*lines, at_the_edge], range(1, len(lines) + 2))
    assert [verdict.index for verdict in batch.rejected] == [300]
    ranges = {"integer": 2**31, "smallint": 2**15}
    for table, rows in zip(pgcr.tables, batch.tables, strict=True):
        for row in rows.rows:
            for column, value in zip(table.columns, row, strict=True):
                if value is None:
                    continue
                if column.type == "boolean":
                    assert type(value) is bool, (table.name, column.name)
                elif column.type in ranges:
                    assert type(value) is int, (table.name, column.name)
                    assert -ranges[column.type] <= value < ranges[column.type], (table.name, column.name)
