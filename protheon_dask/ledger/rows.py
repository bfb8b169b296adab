"""Run one of the ledger's statements and get its rows as dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from protheon_dask.ledger.statements import statement


def rows(conn: psycopg.Connection, name: str, params: Mapping[str, Any] | None = None) -> list[DictRow]:
    """All rows of sql/<name>.sql, in the caller's transaction. In binary: DateStyle and the like of the role have no say in it."""
    with conn.cursor(row_factory=dict_row, binary=True) as cursor:
        return cursor.execute(statement(name), params or {}).fetchall()


def run(conn: psycopg.Connection, name: str, params: Mapping[str, Any]) -> None:
    """Run sql/<name>.sql for its effect."""
    conn.execute(statement(name), params)
