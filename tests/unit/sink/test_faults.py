"""Whose fault an error of PostgreSQL is: by class and SQLSTATE alone."""

from __future__ import annotations

import psycopg
import pytest

from protheon_dask.errors import ConfigError, InvariantError, LedgerUnavailable, ProtheonError, SchemaViolation
from protheon_dask.sink.faults import is_line_fault, translate


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("22003", SchemaViolation), ("23505", SchemaViolation), ("54000", SchemaViolation), ("P0001", SchemaViolation),
        ("40P01", LedgerUnavailable), ("53300", LedgerUnavailable), ("55P03", LedgerUnavailable), ("57P01", LedgerUnavailable),
        ("58030", LedgerUnavailable),
        ("42501", ConfigError), ("0A000", ConfigError), ("3D000", ConfigError), ("XX000", InvariantError), ("21000", InvariantError),
    ],
)  # fmt: skip
def test_the_sqlstate_tells_who_acts(sqlstate: str, error: type[ProtheonError]) -> None:
    exc = psycopg.errors.lookup(sqlstate)("words that mean nothing")
    assert type(translate(exc)) is error
    assert sqlstate in str(translate(exc))
    assert is_line_fault(exc) is (error is SchemaViolation)


def test_a_lost_connection_is_waited_for_and_a_misused_driver_is_a_defect() -> None:
    assert type(translate(psycopg.OperationalError("consuming input failed: EOF"))) is LedgerUnavailable
    assert type(translate(psycopg.InterfaceError("the cursor is closed"))) is InvariantError
    assert type(translate(psycopg.ProgrammingError("no result available"))) is InvariantError
    assert not is_line_fault(psycopg.OperationalError("consuming input failed: EOF"))
