"""A table's declaration is refused where it cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.table import Column, Table

COLUMNS = (Column("id", "bigint"), Column("at", "timestamptz"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": ()}, "no columns"),
        ({"columns": (*COLUMNS, Column("id", "text"))}, "named twice"),
        ({"primary_key": ("ident",)}, "'ident'"),
        ({"primary_key": ("id",), "on_conflict": "ignor"}, "'ignor' is none of 'error', 'ignore', 'update', 'add'"),
        ({"on_conflict": "ignore"}, "needs a primary_key"),
        ({"primary_key": ("id",), "on_conflict": "ignore", "newer_by": "at"}, "newer_by"),
        ({"primary_key": ("id",), "shared": True}, "a shared table needs"),
        ({"indexes": (("a", "t"),)}, "'a'"),
    ],
)
def test_a_mistake_in_a_table_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"table public\.t") as refused:
        Table(**{"name": "t", "columns": COLUMNS, **changes})
    assert words in str(refused.value)


def test_a_table_survives_its_json() -> None:
    table = Table(name="s.t", columns=COLUMNS, primary_key=("id",), on_conflict="update", newer_by="at", shared=True, indexes=(("at",),))
    assert Table.from_json(table.to_json()) == table
