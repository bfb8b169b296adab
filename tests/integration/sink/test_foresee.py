"""What is told of a table before it is there, against the table once it is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from protheon_dask.pipelines.table import Column, Table
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.foresee import foreseen_faults, is_sendable
from protheon_dask.sink.targets import ensure_tables

TYPES = (
    *("int", "int2", "bigint", "real", "float8", "bool", "text", "bytea", "uuid", "date", "jsonb", "inet", "interval"),
    *("timestamptz", "timestamptz(3)", "timestamp (0) without time zone", "timestamp with time zone", "time(2)", "timetz"),
    *("numeric", "numeric(10, 2)", "varchar", "varchar(20)", "char", "char(3)", "bpchar", "bit", "bit(3)", "varbit(4)"),
    *("timestamptz[]", "varchar(5)[]", "int4[3]"),
)


def test_a_type_is_spelled_as_a_load_spells_it(conn: psycopg.Connection[Any]) -> None:
    table = Table(name="public.kinds", columns=tuple(Column(f"c{n}", kind) for n, kind in enumerate(TYPES)))
    ensure_tables(conn, [table])
    loaded = [column.type for column in describe(conn, [table])[0].columns]
    wrong = object()  # no column takes it
    told = []
    for at in range(len(TYPES)):
        row = [wrong if at == place else None for place in range(len(TYPES))]
        [(_, reason, _)] = foreseen_faults(table, [row])
        told.append(reason.partition(" (")[2].partition(") cannot take")[0])
    assert told == loaded


@pytest.mark.parametrize(
    ("value", "is_sent"), [(1, True), (None, True), (2**31, False), ("one", False)], ids=["an int", "null", "too large", "a text"]
)
def test_a_value_that_no_encoder_takes_is_never_sent(value: object, is_sent: bool) -> None:
    table = Table(name="public.t", columns=(Column("n", "integer", not_null=True), Column("other", "public.mood")))
    assert is_sendable(table, [value, "any"]) is is_sent


def test_a_row_of_another_length_is_never_sent() -> None:
    assert not is_sendable(Table(name="public.t", columns=(Column("n", "integer"),)), [1, 2])
