"""Rows into one relation by binary COPY, and the rows that cannot be right found without asking the server.

The way measured best: psycopg's C ``write_row`` with ``set_types``. Packing whole rows of fixed width by one
``struct.pack`` took 0.06 s of client CPU against 0.09 s for 100,000 rows of 16 columns, within a COPY that takes
0.12 s to 0.17 s because the server does: not worth a second way.
"""

from __future__ import annotations

import datetime
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.abc import AdaptContext
from psycopg.pq import Format

from protheon_dask import failpoints
from protheon_dask.errors import SchemaViolation
from protheon_dask.pipelines.verdict import ESCAPED_NUL, NO_NUL, clean
from protheon_dask.sink.catalog import Connection, Target, TargetColumn
from protheon_dask.sink.checksum import Comparable, SummingSender
from protheon_dask.sink.encode import ENCODE_ERRORS, TEXT, Encode, Wire, register_encoders

RANGED_OIDS: Final = frozenset({20, 21, 23, 26, 700})
"""Types for which a whole number may be too large: bigint, smallint, integer, oid, real."""
JSONB: Final = 3802
TIMESTAMP, TIMESTAMPTZ = 1114, 1184
TEXT_OIDS: Final = frozenset({TEXT, 1043, 114, JSONB})

NOT_NULL, OUT_OF_RANGE, NOT_TEXT, WRONG_TYPE, WRONG_SHAPE = "23502", "22003", "22021", "22P02", "22023"
NO_SUCH_CHARACTER = "22P05"

MAX_VALUE_CHARS: Final = 60
"""Of a refused value in a reason; the line itself is kept with its reject."""


class CopyWriter:
    """Binary COPY into one relation that has a target's columns. Holds one cursor; not thread-safe.

    relation: the target itself or its staging table. extra: (name, type oid) of bigint columns that rows carry after those of
    the target. compared: what is summed of the rows that are sent; None: nothing, at no cost.
    """

    def __init__(
        self,
        conn: Connection,
        target: Target,
        relation: sql.Composable,
        extra: Sequence[tuple[str, int]] = (),
        compared: Comparable | None = None,
    ) -> None:
        self._cursor = conn.cursor()
        register_encoders(self._cursor, target.wires, are_exact=target.values_are_exact)
        names = [column.name for column in target.columns] + [name for name, _ in extra]
        self._oids = [column.oid for column in target.columns] + [oid for _, oid in extra]
        self._summing: SummingSender | None = None
        if compared is not None:
            n_own = len(names) - len(target.table.columns)
            self._summing = SummingSender(self._cursor, self._oids, n_own, [names.index(name) for name in compared.columns])
            names = [names[index] for index in self._summing.order]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        self._statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(relation, columns)
        self._table = target.table.name
        self.suspect: int | None = None
        """After a refusal: the index of the row that seems to be the cause. A hint: it is to be tried alone."""
        self.row_sum = 0
        """Of the last write: the sum of the rows' hashes, not reduced; 0 where nothing is compared."""

    def write(self, rows: Sequence[Sequence[Any]], decorated: Iterable[Sequence[Any]]) -> int:
        """Send rows as one COPY and return how many the server stored (a trigger may have dropped some).

        Shapes: decorated: the rows again, each with the values of the columns that are not the pipeline's.
        Raises: psycopg.Error as the server said it. SchemaViolation: a value could not be encoded (faulty_rows says
                which). Either way the transaction is unusable until it is rolled back to a savepoint.
        """
        self.suspect = None
        left = iter(decorated)
        failpoints.hit("copy.before")
        try:
            with self._cursor.copy(self._statement) as copy, _shortly():
                if self._summing is not None:
                    self.row_sum = self._summing.send(copy, left)
                else:
                    copy.set_types(self._oids)
                    write_row = copy.write_row
                    for row in left:
                        write_row(row)
                failpoints.hit("copy.mid")
        except psycopg.Error as exc:
            if exc.sqlstate is not None:
                self.suspect = _row_in(exc.diag.context, len(rows))
            raise
        except _NotEncoded as exc:
            raise self._cannot_encode(exc, rows, left) from exc
        failpoints.hit("copy.after")
        return self._cursor.rowcount

    def _cannot_encode(self, exc: Exception, rows: Sequence[Sequence[Any]], left: Iterator[Sequence[Any]]) -> SchemaViolation:
        self.suspect = len(rows) - sum(1 for _ in left) - 1
        return SchemaViolation(f"a value does not fit its column: {exc}", WRONG_TYPE, self._table)


class _NotEncoded(Exception):
    """A value that no encoder takes, in few words."""


@contextmanager
def _shortly() -> Iterator[None]:
    """Raise _NotEncoded for what an encoder raises.

    psycopg ends the COPY with the error's text, which may repeat the value; the server drops the connection if it gets more than
    10,000 bytes there ("invalid message length", measured), and that would look like an outage.
    """
    try:
        yield
    except ENCODE_ERRORS as exc:
        if isinstance(exc, psycopg.Error) and exc.sqlstate is not None:
            raise
        raise _NotEncoded(clean(str(exc))) from exc


def _row_in(context: str | None, n_rows: int) -> int | None:
    """The index of the row that the server's CONTEXT names ("COPY t, line 5, ..", in any language), if it names one."""
    for number in re.findall(r"\d+", (context or "").partition(",")[2]):
        return int(number) - 1 if 0 < int(number) <= n_rows else None
    return None


def faulty_rows(conn: Connection, target: Target, rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, str, str]]:
    """Find rows that cannot be right: (index, reason, SQLSTATE) of each.

    Shapes:     rows as a pipeline gives them, without provenance.
    Guarantee:  asks the server nothing. A row that passes may still be refused by it.
    """
    yield from faulty_values(conn.cursor(), target.wires, target.columns[: len(target.table.columns)], target.table.name, rows)


def faulty_values(
    context: AdaptContext, wires: Mapping[int, Wire], columns: Sequence[TargetColumn], table: str, rows: Iterable[Sequence[Any]]
) -> Iterator[tuple[int, str, str]]:
    """As faulty_rows, of rows that have these columns. context: where encoders are registered; a connection is not needed."""
    register_encoders(context, wires)
    encoders = [(column, _encode_as(context, column.oid)) for column in columns]
    for index, row in enumerate(rows):
        if len(row) != len(encoders):
            yield index, f"a row of {len(row)} values for the {len(encoders)} columns of {table}", WRONG_SHAPE
            continue
        for (column, encode), value in zip(encoders, row, strict=True):
            if (fault := _fault(column, encode, value)) is not None:
                yield index, *fault
                break


def _encode_as(context: AdaptContext, oid: int) -> Encode:
    dump = context.adapters.get_dumper_by_oid(oid, Format.BINARY)(type(None), context).dump

    def encode(value: Any) -> bytes:
        return bytes(dump(value) or b"")

    return encode


def is_encodable(context: AdaptContext, oid: int, value: Any) -> bool:
    """Does the encoder of this type, as it is registered there, take the value?"""
    try:
        _encode_as(context, oid)(value)
    except ENCODE_ERRORS:
        return False
    return True


def _fault(column: TargetColumn, encode: Encode, value: Any) -> tuple[str, str] | None:
    if value is None:
        return (f"null in column {column.name!r}, which is NOT NULL", NOT_NULL) if column.not_null else None
    try:
        data = encode(value)
    except ENCODE_ERRORS as exc:
        why = _zone_fault(column, value) or exc
        return clean(f"column {column.name!r} ({column.type}) cannot take {_shown(value)}: {why}"), _sqlstate(column, value, exc)
    if column.wire_oid in TEXT_OIDS and not column.is_array and b"\0" in bytes(data):
        return f"column {column.name!r} ({column.type}) cannot take a NUL character", NOT_TEXT
    if column.wire_oid == JSONB and not column.is_array and b"\\u0000" in data and ESCAPED_NUL.search(data):
        return f"column {column.name!r} ({column.type}): {NO_NUL}", NO_SUCH_CHARACTER
    return None


def _sqlstate(column: TargetColumn, value: Any, exc: Exception) -> str:
    if isinstance(exc, UnicodeEncodeError):
        return NOT_TEXT
    is_integer = column.wire_oid in RANGED_OIDS and _is_integral(value, column.is_array)
    if isinstance(exc, OverflowError) or (is_integer and isinstance(exc, struct.error)):
        return OUT_OF_RANGE
    if isinstance(value, datetime.datetime):
        return WRONG_SHAPE  # naive where aware is wanted, or the other way round
    return WRONG_TYPE


def _zone_fault(column: TargetColumn, value: Any) -> str | None:
    """What is wrong with the zone of a time that its column does not take: Python speaks of naive and aware ones."""
    if column.wire_oid not in (TIMESTAMP, TIMESTAMPTZ):
        return None
    if isinstance(value, list | tuple):
        return next((fault for one in value if (fault := _zone_fault(column, one))), None)
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime.datetime) or (value.tzinfo is None) == (column.wire_oid == TIMESTAMP):
        return None
    if value.tzinfo is None:
        return "it has no zone: write 2026-01-01T10:00:00Z or ..+01:00"
    return "it has a zone, and the column keeps none: leave it out, or make the column timestamp with time zone"


def _is_integral(value: Any, in_lists: bool) -> bool:
    """Tell whether a value is an int, or, where that may be, nested lists of nothing else."""
    if isinstance(value, list | tuple):
        return in_lists and all(_is_integral(one, True) for one in value)
    return value is None or isinstance(value, int)


def _shown(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print those of more than 4,300 digits
    if isinstance(value, str | bytes | bytearray):
        value = value[: MAX_VALUE_CHARS + 1]
    text = f"a {type(value).__name__} of {len(value):,}" if isinstance(value, list | tuple | dict) else ascii(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 3] + "..."
