"""PostgreSQL's errors in the words of Protheon: by class and SQLSTATE, never by message text."""

from __future__ import annotations

import psycopg

from protheon_dask.errors import ConfigError, InvariantError, LedgerUnavailable, ProtheonError, SchemaViolation
from protheon_dask.policy import blame

MAX_DETAIL_CHARS = 300
"""Of the server's DETAIL in a reason: a key is short, a whole failing row is not for a reason."""

KEY_DETAILS = ("23505", "23503", "23P01")
"""SQLSTATEs whose DETAIL names the key and not the whole row."""


def translate(exc: psycopg.Error) -> ProtheonError:
    """Give the error to raise instead: ``raise translate(exc) from exc``.

    Guarantee: SchemaViolation where a row is at fault, ConfigError where the operator must act, LedgerUnavailable
    where a later try may go well (a lost connection too), else InvariantError. The text names the SQLSTATE.
    """
    if exc.sqlstate is None and not isinstance(exc, psycopg.OperationalError):
        return InvariantError(f"psycopg refused a call of Protheon's own: {type(exc).__name__}: {exc}")
    whose = blame(exc.sqlstate)
    text = reason_of(exc)
    if whose.line:
        return SchemaViolation(text, exc.sqlstate, table_of(exc))
    if whose.nobody:
        return LedgerUnavailable(f"PostgreSQL: {text}")
    if whose.operator:
        return ConfigError(f"PostgreSQL refuses for good: {text}")
    return InvariantError(f"PostgreSQL: {text}")


def is_line_fault(exc: psycopg.Error) -> bool:
    """Tell whether a line's rows, and nothing else, are to blame."""
    return exc.sqlstate is not None and blame(exc.sqlstate).line


def is_passing(exc: psycopg.Error) -> bool:
    """Tell whether a later try may go well: a lost connection, a deadlock, a full disk, a shutdown."""
    return isinstance(exc, psycopg.OperationalError) if exc.sqlstate is None else blame(exc.sqlstate).nobody


def reason_of(exc: psycopg.Error) -> str:
    """Say on one line what the server said: message, the key where one is named, SQLSTATE."""
    said = exc.diag.message_primary or str(exc).strip() or type(exc).__name__
    detail = exc.diag.message_detail
    if exc.sqlstate in KEY_DETAILS and detail:
        said = f"{said}: {detail[:MAX_DETAIL_CHARS]}"
    return " ".join(said.split()) + (f" (SQLSTATE {exc.sqlstate})" if exc.sqlstate else "")


def table_of(exc: psycopg.Error) -> str | None:
    """Name ``schema.table`` where the server says which table it was."""
    schema, table = exc.diag.schema_name, exc.diag.table_name
    return f"{schema}.{table}" if schema and table else None
