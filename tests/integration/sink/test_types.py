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

from protheon_dask.errors import TargetRefused
from protheon_dask.pipelines.table import Column, Table
from tests.integration.sink.conftest import load_chunk, one_row_a_line

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

UTC = dt.UTC
NAN = Decimal("NaN")
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
    ("numeric(4,2)", [(99.99, Decimal("99.99")), ("1.005", Decimal("1.01")), ("1e1", Decimal("10.00"))], [(100, "22003")]),
    (
        "numeric(1000,500)",
        [("7" * 500 + "." + "3" * 500, Decimal("7" * 500 + "." + "3" * 500)), ("NaN", NAN), (float("nan"), NAN)],
        [("7" * 501, "22003"), ("inf", "22003")],
    ),
    ("numeric[]", [([[1, None], ["2.50", 0.1]], [[Decimal(1), None], [Decimal("2.50"), Decimal("0.1")]])], []),
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
    ("timetz", [(dt.time(1, 2, tzinfo=UTC), dt.time(1, 2, tzinfo=UTC)), ("01:02Z", dt.time(1, 2, tzinfo=UTC))], [("25:00Z", "22P02")]),
    ("interval", [(dt.timedelta(1, 2), dt.timedelta(1, 2))], [(5, "22P02")]),
    ("macaddr", [("08:00:2b:01:02:03", "08:00:2b:01:02:03"), ("08002B-010203", "08:00:2b:01:02:03")], [("08:00", "22P02"), (5, "22P02")]),
    ("macaddr8", [("08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05")], [("08:00:2b:01:02:03", "22P02")]),
    ("bit(3)", [("101", "101")], [("10", "22026"), ("1a1", "22P02"), (5, "22P02")]),
    ("varbit(9)", [("", ""), ("101010101", "101010101")], [("1" * 10, "22001")]),
    ("cidr", [("10.0.0.0/8", ipaddress.ip_network("10.0.0.0/8"))], [("10.0.0.1/8", "22P02")]),
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
    (
        "integer[][]",
        [([[[1, None], [3, 4]], [[5, 6], [7, 8]]], [[[1, None], [3, 4]], [[5, 6], [7, 8]]])],
        [([[1], [2, 3]], "22P02"), ([[1], 2], "22P02")],
    ),
    ("text[]", [(["a", "b"], ["a", "b"]), (["NULL", None, ""], ["NULL", None, ""])], [("ab", "22P02"), ([5], "22P02"), (["a\0"], "22021")]),
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
    assert list(map(repr, got)) == [repr(back) for _, back in kept] + ["None"]  # repr: NaN is not itself


INFINITIES = ("date", "timestamp", "timestamptz", "date[]")


@pytest.mark.parametrize("type_name", INFINITIES)
def test_times_without_end_are_kept_for_which_python_has_no_value(conn: Conn, make: Make, type_name: str) -> None:
    table = Table(name="public.typed", columns=(Column("id", "integer", not_null=True), Column("x", type_name)), primary_key=("id",))
    make(table)
    values: list[Any] = ["infinity", "-infinity", "Infinite"]
    chunk = load_chunk(conn, [table], [one_row_a_line([(i, [v] if type_name == "date[]" else v) for i, v in enumerate(values)])])
    assert chunk.refused == [(2, "22P02")]
    got = [text.strip("{}") for (text,) in conn.execute("SELECT x::text FROM typed ORDER BY id")]
    assert got == ["infinity", "-infinity"]


@pytest.mark.parametrize(
    ("type_name", "instead"),
    [
        ("money", "numeric"),
        ("xml", "text"),
        ("int4range", "two columns, for its bounds"),
        ("tstzmultirange", "two columns, for its bounds"),
        ("point[]", "two columns of double precision"),
        ("name", "text"),
        ("tsvector", "text, and an index over to_tsvector(..)"),
        ("pair", None),
    ],
)
def test_a_type_that_cannot_be_sent_is_refused_at_submit_with_what_to_use_instead(
    conn: Conn, make: Make, type_name: str, instead: str | None
) -> None:
    conn.execute("CREATE TYPE pair AS (a integer, b text)")
    table = Table(name="public.typed", columns=(Column("id", "integer"), Column("Größe x", type_name)))
    with pytest.raises(TargetRefused) as refused:
        make(table)
    assert f"table public.typed: no way to send Größe x {type_name}" + (f" (instead: {instead})" if instead else "") in str(refused.value)
    assert "use text, jsonb," in str(refused.value)
    assert conn.execute("SELECT to_regclass('public.typed')").fetchone() == (None,)
