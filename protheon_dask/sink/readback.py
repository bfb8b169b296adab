"""Rows of a table read back in one stream, and counted and summed by the chunk that brought them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from psycopg import sql
from xxhash import xxh3_64_intdigest

from protheon_dask.pipelines.table import PROVENANCE, Table
from protheon_dask.sink.catalog import Connection
from protheon_dask.sink.checksum import COPY_HEADER, COPY_TRAILER, signed

LOAD_ID, LINE_NO = "load_id", "line_no"
"""The columns by which rows of the pipeline jsonl tell where they come from, without a provenance column."""

TELL_EVERY_ROWS: Final = 100_000

CHUNK_FIELD: Final = slice(6, 14)
"""In a row: two bytes with the number of fields, four with the length of the first one, a bigint; then its value."""
HASHED_FROM: Final = 14
NULL_HASHED_FROM: Final = 6

BY_CHUNK = """
COPY (
    SELECT {columns} FROM {table} AS t
     WHERE t.{provenance} IS NOT NULL
       AND NOT EXISTS (SELECT FROM protheon.chunk AS c WHERE c.task_id = t.{provenance} AND c.load_id <> ALL({loads}::bigint[]))
) TO STDOUT (FORMAT binary)
"""
"""Rows of these loads, and of chunks that the ledger does not know."""

ALL_CHUNKS = "COPY (SELECT {columns} FROM {table} AS t WHERE t.{provenance} IS NOT NULL) TO STDOUT (FORMAT binary)"

BY_LINE = """
COPY (
    SELECT {columns} FROM {table} AS t
     WHERE t.load_id = ANY({loads}::bigint[]) OR NOT EXISTS (SELECT FROM protheon.load AS l WHERE l.id = t.load_id)
) TO STDOUT (FORMAT binary)
"""

CHUNK_OF_LINE = """
coalesce(
    CASE WHEN EXISTS (SELECT FROM protheon.load AS replay WHERE replay.replay_of = t.load_id) THEN
        (SELECT c.task_id FROM protheon.reject AS r
           JOIN protheon.chunk AS c ON c.load_id = r.replay_load_id AND r.replay_line BETWEEN c.first_line AND c.first_line + c.n_lines - 1
          WHERE r.load_id IN (SELECT t.load_id UNION ALL SELECT replay.id FROM protheon.load AS replay WHERE replay.replay_of = t.load_id)
            AND r.line = t.line_no AND r.replayed_by IS NOT NULL
          ORDER BY r.replay_load_id DESC LIMIT 1) END,
    (SELECT c.task_id FROM protheon.chunk AS c
      WHERE c.load_id = t.load_id AND c.first_line <= t.line_no ORDER BY c.first_line DESC LIMIT 1))::bigint
"""
"""A line that was refused and replayed is of the chunk of its latest replay; its row still names the load and line it came from."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Rows of one chunk that are in a table. checksum: of the columns that were read, as checksum.signed() has it."""

    n_rows: int
    checksum: int


def names_lines(table: Table, reference: str) -> bool:
    """Tell whether rows of a table without provenance say of themselves which line of which load they are: those of jsonl."""
    names = {column.name for column in table.columns}
    return reference == "jsonl" and not table.provenance and {LOAD_ID, LINE_NO} <= names


def read_back(
    conn: Connection,
    table: Table,
    columns: Collection[str],
    load_ids: Collection[int],
    *,
    by_line: bool,
    whole: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
) -> dict[int | None, Standing]:
    """Count and sum rows of these loads, and of no known load, by chunk (task id); None: of no chunk at all.

    columns:   to be summed. whole: rows of all loads. by_line: rows name their load and line instead of their chunk; load_ids are
               then those that rows name (for a replay: of the load that it replays), and chunks of their other loads come too.
    on_rows:   told how many rows were read, now and then.
    Guarantee: one pass in the caller's transaction; memory is one entry a chunk, however large the table is.
    """
    chunk = sql.SQL(CHUNK_OF_LINE) if by_line else sql.SQL("t.{}").format(sql.Identifier(PROVENANCE))
    statement = sql.SQL(BY_LINE if by_line else ALL_CHUNKS if whole else BY_CHUNK).format(
        columns=sql.SQL(", ").join([chunk, *(sql.SQL("t.{}").format(sql.Identifier(name)) for name in columns)]),
        table=sql.Identifier(table.schema, table.relation),
        provenance=sql.Identifier(PROVENANCE),
        loads=sql.Literal(sorted(load_ids)),
    )
    counts: dict[bytes, int] = {}
    sums: dict[bytes, int] = {}
    n_rows = 0
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for message in copy:  # one message a row (PostgreSQL manual, 55.2.7); the header comes with the first one
            row = bytes(message)
            if row.startswith(COPY_HEADER):
                row = row[len(COPY_HEADER) :]
            if row == COPY_TRAILER or not row:
                continue
            is_null = row[2:6] == b"\xff\xff\xff\xff"
            key = b"" if is_null else row[CHUNK_FIELD]
            counts[key] = counts.get(key, 0) + 1
            sums[key] = sums.get(key, 0) + xxh3_64_intdigest(row[NULL_HASHED_FROM if is_null else HASHED_FROM :])
            n_rows += 1
            if n_rows % TELL_EVERY_ROWS == 0:
                on_rows(n_rows)
    on_rows(n_rows)
    return {int.from_bytes(key, "big", signed=True) if key else None: Standing(counts[key], signed(sums[key])) for key in counts}
