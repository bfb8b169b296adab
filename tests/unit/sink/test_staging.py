"""Which rows are dropped before they are staged: only those that the table's rule would drop for sure."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.pipelines.table import Column, OnConflict, Table
from protheon_dask.sink.staging import one_of_each_key


def table_of(on_conflict: OnConflict, newer_by: str | None = None) -> Table:
    columns = (Column("a", "integer"), Column("b", "integer"), Column("rank", "integer"))
    return Table(name="t", columns=columns, primary_key=("a", "b"), on_conflict=on_conflict, newer_by=newer_by)


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 9)), max_size=30)


@given(ROWS)
def test_the_first_row_of_each_key_stays_in_order_under_ignore(rows: list[tuple[int, int, int]]) -> None:
    first = {row[:2]: row for row in reversed(rows)}
    assert sorted(map(tuple, one_of_each_key(table_of("ignore"), rows))) == sorted(first.values())


@given(ROWS)
def test_the_last_row_of_each_key_stays_under_update(rows: list[tuple[int, int, int]]) -> None:
    last = {row[:2]: row for row in rows}
    assert sorted(map(tuple, one_of_each_key(table_of("update"), rows))) == sorted(last.values())


@given(ROWS)
def test_the_newest_row_of_each_key_stays_and_of_equals_the_first(rows: list[tuple[int, int, int]]) -> None:
    numbered = [(*row[:2], row[2], n) for n, row in enumerate(rows)]
    columns = (*table_of("update").columns, Column("n", "integer"))
    table = Table(name="t", columns=columns, primary_key=("a", "b"), on_conflict="update", newer_by="rank")
    newest: dict[tuple[int, int], tuple[int, ...]] = {}
    for row in numbered:
        if row[:2] not in newest or row[2] > newest[row[:2]][2]:
            newest[row[:2]] = row
    assert sorted(map(tuple, one_of_each_key(table, numbered))) == sorted(newest.values())


@given(ROWS)
def test_rows_that_are_added_up_all_stay(rows: list[tuple[int, int, int]]) -> None:
    assert one_of_each_key(table_of("add"), rows) == rows


@pytest.mark.parametrize(
    "ranks",
    [(1, None), ("a", "b"), (1.0, 2.0), (1, "2"), (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC))],
    ids=["null", "text", "float", "mixed", "naive and aware"],
)
def test_ranks_that_python_may_order_otherwise_than_the_database_drop_nothing(ranks: tuple[Any, Any]) -> None:
    rows = [(1, 1, rank) for rank in ranks]
    assert one_of_each_key(table_of("update", "rank"), rows) == rows


@pytest.mark.parametrize("on_conflict", ["ignore", "update"])
def test_keys_that_cannot_be_compared_and_short_rows_drop_nothing(on_conflict: OnConflict) -> None:
    for rows in ([([1], 1, 1), ([1], 1, 2)], [(1,), (1, 1, 1)]):
        assert one_of_each_key(table_of(on_conflict), rows) == rows
