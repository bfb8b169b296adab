"""Values of every type that can be sent come back as they were, and what a type cannot hold is refused."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from protheon_dask.pipelines.table import Column, Table
from tests.integration.sink.conftest import load_chunk, one_row_a_line

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

UTC = dt.UTC
SOME = UUID("12345678-1234-5678-1234-567812345678")
HUGE = Decimal("1e200000")
NOON = dt.datetime(2024, 5, 1, 12, tzinfo=UTC)

TYPES = """
CREATE TYPE size AS ENUM ('small', 'large');
CREATE DOMAIN small_id AS integer CHECK (VALUE < 100);
CREATE DOMAIN label AS varchar(5);
CREATE DOMAIN ids AS integer[];
"""

CASES: list[tuple[str, list[tuple[Any, Any]], list[tuple[Any, str]]]] = [
    ("boolean", [(True, True), (0, False)], [("no", "22P02"), (2, "22P02")]),
    ("smallint", [(-(2**15), -(2**15)), (2**15 - 1, 2**15 - 1)], [(2**15, "22003"), (1.5, "22P02"), ("1", "22P02")]),
    ("integer", [(-(2**31), -(2**31)), (True, 1)], [(2**31, "22003"), (-(2**31) - 1, "22003"), (10**5000, "22003")]),
    ("bigint", [(2**63 - 1, 2**63 - 1)], [(2**63, "22003"), ("1", "22P02")]),
    ("real", [(1.5, 1.5)], [(1e300, "22003"), ("1", "22P02")]),
    ("double precision", [(0.1, 0.1), (3, 3.0)], [(10**400, "22003"), ("x", "22P02")]),
    (
        "numeric",
        [(Decimal("1.10"), Decimal("1.10")), (0.1, Decimal("0.1")), ("7", Decimal(7)), (5, Decimal(5))],
        [("x", "22P02"), (True, "22P02"), (HUGE, "22003")],
    ),
    ("numeric(4,2)", [(99.99, Decimal("99.99"))], [(100, "22003")]),
    ("text", [("ä😀", "ä😀"), ("", "")], [("a\0", "22021"), ("\ud800", "22021"), (5, "22P02")]),
    ("varchar(3)", [("abc", "abc")], [("abcd", "22001")]),
    ("char(3)", [("a", "a  ")], [("abcd", "22001")]),
    ("bytea", [(b"\0\xff", b"\0\xff"), (bytearray(b"a"), b"a")], [(5, "22P02"), ("a", "22P02")]),
    ("uuid", [(SOME, SOME), (str(SOME), SOME)], [("x", "22P02"), (5, "22P02")]),
    ("date", [(dt.date(2024, 5, 1), dt.date(2024, 5, 1)), ("2024-05-01", dt.date(2024, 5, 1))], [(NOON, "22023"), ("May", "22P02")]),
    ("time", [(dt.time(1, 2), dt.time(1, 2)), ("01:02", dt.time(1, 2))], [(dt.time(1, tzinfo=UTC), "22P02")]),
    (
        "timestamptz",
        [(NOON, NOON), ("2024-05-01T14:00:00+02:00", NOON)],
        [(NOON.replace(tzinfo=None), "22023"), ("now", "22P02"), (5, "22P02")],
    ),
    ("timestamp", [(NOON.replace(tzinfo=None), NOON.replace(tzinfo=None))], [(NOON, "22023")]),
    ("interval", [(dt.timedelta(1, 2), dt.timedelta(1, 2))], [(5, "22P02")]),
    (
        "inet",
        [(ipaddress.ip_address("1.2.3.4"), ipaddress.ip_address("1.2.3.4")), ("::1", ipaddress.ip_address("::1"))],
        [("x", "22P02"), (5, "22P02")],
    ),
    (
        "jsonb",
        [({"a": NOON}, {"a": "2024-05-01T12:00:00Z"}), (b'{"a": 1e1}', {"a": 10}), ("[1]", [1])],
        [("{", "22P02"), (b"\xff", "22021"), (object(), "22P02")],
    ),
    ("json", [("[1 ]", [1]), ([None], [None])], [("{", "22P02")]),
    (
        "integer[]",
        [([1, None], [1, None]), ((1, 2), [1, 2]), ([], []), ([[1], [2]], [[1], [2]])],
        [([2**31], "22003"), (5, "22P02"), (["1"], "22P02")],
    ),
    ("text[]", [(["a", "b"], ["a", "b"])], [("ab", "22P02"), ([5], "22P02"), (["a\0"], "22021")]),
    ("uuid[]", [([str(SOME)], [SOME])], [(["x"], "22P02")]),
    ("jsonb[]", [([{"a": 1}, "[2]"], [{"a": 1}, [2]])], []),
    ("size", [("small", "small")], [("huge", "22P02"), (5, "22P02")]),
    ("size[]", [(["large", None], ["large", None])], [(["huge"], "22P02")]),
    ("small_id", [(99, 99)], [(100, "23514"), (2**31, "22003")]),
    ("label", [("abc", "abc")], [("abcdef", "22001")]),
    ("label[]", [(["abc"], ["abc"])], [(["abcdef"], "22001")]),
    ("ids", [([1], [1])], [([2**40], "22003")]),
]


@pytest.mark.parametrize("shared", [False, True], ids=["direct", "staged"])
@pytest.mark.parametrize(("type_name", "kept", "refused"), CASES, ids=[case[0] for case in CASES])
def test_values_come_back_as_sent_and_others_are_refused(
    conn: Conn, make: Make, type_name: str, kept: list[tuple[Any, Any]], refused: list[tuple[Any, str]], shared: bool
) -> None:
    conn.execute(TYPES)
    table = Table(
        name="public.typed",
        columns=(Column("id", "integer", not_null=True), Column("x", type_name)),
        primary_key=("id",),
        on_conflict="ignore",
        shared=shared,
    )
    make(table)
    values = [value for value, _ in kept] + [value for value, _ in refused] + [None]
    chunk = load_chunk(conn, [table], [one_row_a_line(list(enumerate(values)))])
    assert chunk.refused == [(index, sqlstate) for index, (_, sqlstate) in enumerate(refused, len(kept))]
    cast = "x::text[]" if type_name in ("size[]", "label[]") else "x"
    got = [row[0] for row in conn.execute(f"SELECT {cast} FROM typed ORDER BY id")]
    assert got == [back for _, back in kept] + [None]
