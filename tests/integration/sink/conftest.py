"""A connection to a database of the test's own, and chunks loaded in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from protheon_dask.model import StageClock, TableCount
from protheon_dask.pipelines.table import BatchRows, Table, TableRows
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.loader import ChunkLoader, LineFault
from protheon_dask.sink.targets import ensure_tables

Row = Sequence[Any]
Line = Sequence[Sequence[Row]]  # the rows of one line for each table


def batch_of(lines: Sequence[Line], n_tables: int) -> BatchRows:
    tables = [TableRows() for _ in range(n_tables)]
    for line in lines:
        for table, rows in zip(tables, line, strict=True):
            table.rows.extend(rows)
            table.ends.append(len(table.rows))
    return BatchRows(len(lines), tables)


def one_row_a_line(rows: Sequence[Row]) -> BatchRows:
    return batch_of([[[row]] for row in rows], 1)


@dataclass
class Chunk:
    """What became of one chunk."""

    faults: list[LineFault] = field(default_factory=list)
    counts: dict[str, TableCount] = field(default_factory=dict)
    n_fence_checks: int = 0
    clock: StageClock = field(default_factory=StageClock)
    notices: tuple[str, ...] = ()

    @property
    def refused(self) -> list[tuple[int, str | None]]:
        return [(fault.index, fault.sqlstate) for fault in self.faults]

    def count_of(self, table: Table) -> tuple[int, int, int]:
        count = self.counts[table.name]
        assert count.offered == count.inserted + count.updated + count.ignored
        return count.inserted, count.updated, count.ignored


def load_chunk(
    conn: psycopg.Connection[Any], tables: Sequence[Table], batches: Sequence[BatchRows], *, task_id: int = 7, **options: Any
) -> Chunk:
    """Load one chunk in a transaction of its own and commit it."""
    chunk = Chunk()

    def count_check() -> None:
        chunk.n_fence_checks += 1

    options = {"check_fence": count_check, "clock": chunk.clock, "now": time.perf_counter, **options}
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        loader = ChunkLoader(conn, describe(conn, tables), task_id=task_id, **options)
        for batch in batches:
            chunk.faults += loader.load(batch)
        chunk.counts = {count.table: count for count in loader.finish()}
        chunk.notices = loader.notices()
    return chunk


@pytest.fixture
def connect(database: str) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """More connections to the test's database; closed at its end."""
    opened: list[psycopg.Connection[Any]] = []

    def open_one() -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(database, autocommit=True, prepare_threshold=None))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def conn(connect: Callable[[], psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
    return connect()


@pytest.fixture
def make(conn: psycopg.Connection[Any]) -> Callable[..., list[str]]:
    """Make tables as a submit does, committed."""

    def ensure(*tables: Table) -> list[str]:
        with conn.transaction():
            return ensure_tables(conn, tables)

    return ensure
