"""An order-free checksum of the rows of one table and chunk: taken while they are sent, taken again when they are read back.

It is the sum modulo 2^64 of XXH3-64 over the binary COPY fields of each row: of the columns that come back exactly as they
were sent. Which these are is decided in one place, :func:`comparable`, from the catalog alone, at load as at verification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import abc
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format
from xxhash import xxh3_64_intdigest

from protheon_dask.pipelines.table import PROVENANCE
from protheon_dask.sink.catalog import Connection, Target
from protheon_dask.sink.encode import TEXT

_FIELD_BYTES: Final = struct.Struct("!i").pack
_N_FIELDS: Final = struct.Struct("!h").pack
_NULL: Final = _FIELD_BYTES(-1)


def format_row(row: Sequence[Any], transformer: abc.Transformer, out: bytearray) -> None:
    """Append a row as binary COPY has it, by what psycopg offers to everybody. Raises: as psycopg's write_row."""
    out += _N_FIELDS(len(row))
    for field in transformer.dump_sequence(row, [PyFormat.BINARY] * len(row)):
        if field is None:
            out += _NULL
        else:
            out += _FIELD_BYTES(len(field))
            out += field


try:  # the same in C: five to eight times as fast (measured, 16 columns), and not public, so that it may go away with any version
    from psycopg._copy_base import format_row_binary
except ImportError:
    encode_row = format_row
else:
    encode_row = format_row_binary

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER: Final = b"\xff\xff"
"""How binary COPY begins and ends (PostgreSQL manual, COPY, "Binary Format")."""

SEND_BYTES: Final = 32 << 10
"""Rows are handed over in pieces of this size, as psycopg's own writer does."""

N_FIELDS_BYTES: Final = 2
"""A row begins with the number of its fields."""

BIGINT_FIELD_BYTES: Final = 12
"""A bigint that is not null: four bytes of length, eight of value."""

NO_WORD: Final = 1 << 64

JSONB: Final = 3802
"""jsonb is stored in a form of its own: blanks, the order of keys and doubled keys are gone."""

TEXT_OIDS: Final = frozenset({TEXT, 1043, 114})
"""Types whose bytes are converted between the encodings of client and server."""

UTF8: Final = "UTF8"

# Params: relation oid. Returns of each column, in order, its name and whether a length, precision or scale stands anywhere in its type
# (its own, its domain's, its elements'): values are then rounded, padded or cut as they are stored.
MODIFIED = """
WITH RECURSIVE chain AS (
    SELECT a.attname, a.attnum, a.atttypid AS type_oid, a.atttypmod AS modifier
      FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT chain.attname, chain.attnum, CASE WHEN t.typbasetype <> 0 THEN t.typbasetype ELSE t.typelem END, t.typtypmod
      FROM chain JOIN pg_catalog.pg_type AS t ON t.oid = chain.type_oid
     WHERE t.typbasetype <> 0 OR (t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0)
)
SELECT attname::text, bool_or(modifier >= 0) FROM chain GROUP BY attname, attnum ORDER BY attnum
"""

# Params: relation oid. Returns the triggers that may change a row before it is stored, of the table and of its partitions.
CHANGING_TRIGGERS = """
SELECT DISTINCT t.tgname::text
  FROM pg_catalog.pg_trigger AS t
 WHERE t.tgrelid IN (SELECT %s::oid UNION SELECT part.relid FROM pg_catalog.pg_partition_tree(%s::oid) AS part)
   AND NOT t.tgisinternal AND t.tgenabled <> 'D'
   AND (t.tgtype::integer & 1) <> 0 AND (t.tgtype::integer & 2) <> 0 AND (t.tgtype::integer & (4 | 16)) <> 0
 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Comparable:
    """What of a table's rows can be compared with what was sent.

    columns:   those that come back as they were sent, in the order in which the pipeline has them; empty: none.
    left_out:  the table's other columns, and why nothing is compared where triggers are the reason.
    signature: of columns and their types: two checksums are of the same thing only where these are equal.
    """

    columns: tuple[str, ...]
    left_out: tuple[str, ...]
    signature: int
    triggers: tuple[str, ...] = ()


def comparable(conn: Connection, target: Target) -> Comparable:
    """Tell which columns of a target come back exactly as they are sent.

    Left out are jsonb, every type with a length, precision or scale, text in another encoding than UTF-8, and columns that the
    pipeline does not fill (identity, generated, defaulted); everything, where a trigger may change the row.
    Guarantee: depends on the catalog and the encodings alone.
    """
    is_modified = dict(conn.execute(MODIFIED, (target.oid,)).fetchall())
    triggers = tuple(row[0] for row in conn.execute(CHANGING_TRIGGERS, (target.oid, target.oid)))
    is_utf8 = conn.info.parameter_status("client_encoding") == UTF8  # as the server's is (ledger.connect)
    columns = tuple(
        column
        for column in target.columns
        if column.name != PROVENANCE
        and not triggers
        and not is_modified[column.name]
        and column.wire_oid != JSONB
        and (is_utf8 or column.wire_oid not in TEXT_OIDS)
    )
    names = tuple(column.name for column in columns)
    left_out = tuple(name for name in is_modified if name not in names and name != PROVENANCE)
    text = "\0".join(f"{column.name}\0{column.wire_oid}\0{column.is_array}" for column in columns)
    return Comparable(names, left_out, signed(xxh3_64_intdigest(text.encode())), triggers)


def compared_of(conn: Connection, targets: Iterable[Target]) -> dict[str, Comparable]:
    """What is summed while rows are loaded, by table: nothing where values are added up, or none comes back as it was sent."""
    found = {target.table.name: comparable(conn, target) for target in targets if target.table.on_conflict != "add"}
    return {name: what for name, what in found.items() if what.columns}


def signed(total: int) -> int:
    """A sum modulo 2^64 as PostgreSQL's bigint holds it."""
    return (total + (1 << 63)) % NO_WORD - (1 << 63)


class SummingSender:
    """Sends rows as binary COPY does and sums what is comparable of them. Holds transformers of one cursor; not thread-safe.

    oids: of the columns of a row, the pipeline's first and then the sink's own, which are n_own bigints and never null.
    compared: indexes of the columns that are summed.
    """

    def __init__(self, cursor: psycopg.Cursor[Any], oids: Sequence[int], n_own: int, compared: Sequence[int]) -> None:
        self._rest = [index for index in range(len(oids)) if index not in compared]
        self.order = [*compared, *self._rest]
        """How the columns are sent, by their indexes in a row."""
        self._compared, self._n_fields = list(compared), len(oids).to_bytes(N_FIELDS_BYTES, "big")
        self._is_whole = len(compared) + n_own == len(oids)
        self._own_bytes = n_own * BIGINT_FIELD_BYTES
        self._all, self._first, self._second = (Transformer(cursor) for _ in range(3))
        self._all.set_dumper_types(list(oids), Format.BINARY)
        self._first.set_dumper_types([oids[index] for index in compared], Format.BINARY)
        self._second.set_dumper_types([oids[index] for index in self._rest], Format.BINARY)

    def send(self, copy: psycopg.Copy, rows: Iterable[Sequence[Any]]) -> int:
        """Send all rows and return the sum of their hashes, not reduced. Raises: as psycopg's write_row."""
        return self._send_whole(copy, rows) if self._is_whole else self._send_parted(copy, rows)

    def _send_whole(self, copy: psycopg.Copy, rows: Iterable[Sequence[Any]]) -> int:
        """Everything but the sink's own columns is summed: a row is encoded once, and its hashed part is a slice."""
        out, total, transformer, hash_of = bytearray(COPY_HEADER), 0, self._all, xxh3_64_intdigest
        tail_bytes = self._own_bytes
        for row in rows:
            if len(out) > SEND_BYTES:
                copy.write(out)
                out = bytearray()
            start = len(out) + N_FIELDS_BYTES
            encode_row(row, transformer, out)
            total += hash_of(memoryview(out)[start : len(out) - tail_bytes])
        copy.write(out + COPY_TRAILER)
        return total

    def _send_parted(self, copy: psycopg.Copy, rows: Iterable[Sequence[Any]]) -> int:
        """What is summed is encoded and sent first, the rest of the row after it."""
        out, total = bytearray(COPY_HEADER), 0
        for row in rows:
            if len(out) > SEND_BYTES:
                copy.write(out)
                out = bytearray()
            if len(row) != len(self.order):
                raise ValueError(f"a row of {len(row)} values for {len(self.order)} columns")
            part, rest = bytearray(), bytearray()
            encode_row([row[index] for index in self._compared], self._first, part)
            encode_row([row[index] for index in self._rest], self._second, rest)
            total += xxh3_64_intdigest(part[N_FIELDS_BYTES:])
            out += self._n_fields + part[N_FIELDS_BYTES:] + rest[N_FIELDS_BYTES:]
        copy.write(out + COPY_TRAILER)
        return total
