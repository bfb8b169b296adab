"""A Row class is a table."""

from __future__ import annotations

import datetime
import decimal
import pickle
import uuid
from typing import Annotated, Any

import msgspec
import pytest

import protheon_dask as protheon
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.row import as_values, table_of
from protheon_dask.pipelines.table import Column


class Item(msgspec.Struct):
    name: str


class Everything(protheon.Row, table="shop.everything", primary_key="a", on_conflict="ignore"):
    """All the types.

    Only the first line is the table's comment.
    """

    a: int
    b: float
    c: str
    d: bool
    e: bytes
    f: datetime.datetime
    g: datetime.date
    h: decimal.Decimal
    i: uuid.UUID
    j: dict[str, Any]
    k: list[int]
    m: list[str | None]
    n: Any
    o: Annotated[int, "integer"]
    p: list[Annotated[int, "integer"]]
    q: list[dict[str, int]]
    r: Item
    s: datetime.timedelta
    t: str | None = None
    u: Annotated[int, "smallint"] | None = None
    v: Annotated[int | None, "smallint"] = None


def test_annotations_are_the_columns() -> None:
    types = dict(
        [
            *(("a", "bigint"), ("b", "double precision"), ("c", "text"), ("d", "boolean"), ("e", "bytea"), ("f", "timestamptz")),
            *(("g", "date"), ("h", "numeric"), ("i", "uuid"), ("j", "jsonb"), ("k", "bigint[]"), ("m", "text[]"), ("n", "jsonb")),
            *(("o", "integer"), ("p", "integer[]"), ("q", "jsonb"), ("r", "jsonb"), ("s", "interval")),
            *(("t", "text"), ("u", "smallint"), ("v", "smallint")),
        ]
    )
    nullable = {"n", "t", "u", "v"}
    assert table_of(Everything).columns == tuple(Column(name, kind, not_null=name not in nullable) for name, kind in types.items())


def test_the_classs_keywords_and_first_doc_line_are_the_tables() -> None:
    table = table_of(Everything)
    assert (table.name, table.primary_key, table.on_conflict, table.comment) == ("shop.everything", ("a",), "ignore", "All the types.")


def test_an_index_of_one_column_may_be_its_name() -> None:
    class Visit(protheon.Row, table="visit", indexes=["at", ("page", "at")]):
        at: datetime.datetime
        page: str

    assert table_of(Visit).indexes == (("at",), ("page", "at"))


def test_shared_columns_come_from_a_class_without_a_table() -> None:
    class Stamped(protheon.Row):
        at: datetime.datetime

    class Visit(Stamped, table="visit"):
        page: str

    assert [column.name for column in table_of(Visit).columns] == ["at", "page"]
    with pytest.raises(ConfigError, match="Stamped names no table"):
        table_of(Stamped)


def test_names_local_to_a_function_are_found() -> None:
    Number = decimal.Decimal  # noqa: N806  # a type

    class Price(protheon.Row, table="price"):
        amount: Number

    assert table_of(Price).columns == (Column("amount", "numeric", not_null=True),)


def test_an_annotation_without_a_postgres_type_is_a_lesson() -> None:
    with pytest.raises(ConfigError, match=r"column where: no PostgreSQL type .* Annotated"):

        class Bad(protheon.Row, table="bad"):
            where: complex


def test_a_row_survives_pickling() -> None:
    class_ = Price
    row = class_(amount=3)
    assert pickle.loads(pickle.dumps(row)) == row


class Price(protheon.Row, table="price"):
    amount: int


def test_importing_protheon_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = "grpc dask distributed bokeh pandas psycopg polars pyarrow cloudpickle"
    code = f"import protheon_dask, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_raw_value_is_the_json_text_as_it_stands_and_null_where_there_is_none() -> None:
    class Kept(protheon.Row, table="kept"):
        a: msgspec.Raw
        b: int
        c: Annotated[msgspec.Raw, "json"] = msgspec.Raw()
        d: Any = None

    table = table_of(Kept)
    assert [(column.type, column.not_null) for column in table.columns] == [
        *[("jsonb", False), ("bigint", True), ("json", False), ("jsonb", False)],
    ]
    ready = as_values(table)
    assert ready is not None
    read = msgspec.json.Decoder(Kept).decode
    assert ready(msgspec.structs.astuple(read(b'{"a": {"x" : 1e400}, "b": 1, "c": [1.50], "d": {"y": 2}}'))) == (
        *(b'{"x" : 1e400}', 1, b"[1.50]", b'{"y":2}'),
    )
    assert ready(msgspec.structs.astuple(read(b'{"a": null, "b": 1}'))) == (None, 1, None, None)
