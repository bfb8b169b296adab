"""Whose fault an error of PostgreSQL is: by class and SQLSTATE alone; and what is said at connect, where there is none."""

from __future__ import annotations

import psycopg
import pytest

from protheon_dask.errors import ConfigError, InvariantError, LedgerUnavailable, ProtheonError, SchemaViolation
from protheon_dask.postgres import ADVICE, CONNECT_WORDS, Place, is_line_fault, is_outage, is_passing, refused_at_connect, translate

PLACE = Place("db.example", "5432", "reports", "loader")
PREFIX = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("22003", SchemaViolation), ("23505", SchemaViolation), ("54000", SchemaViolation), ("P0001", SchemaViolation),
        ("40P01", LedgerUnavailable), ("53100", LedgerUnavailable), ("53300", LedgerUnavailable), ("55P03", LedgerUnavailable),
        ("57P01", LedgerUnavailable), ("57014", LedgerUnavailable), ("58030", LedgerUnavailable), ("25P03", LedgerUnavailable),
        ("42501", ConfigError), ("0A000", ConfigError), ("3D000", ConfigError), ("25006", ConfigError), ("53400", ConfigError),
        ("XX000", InvariantError), ("21000", InvariantError),
    ],
)  # fmt: skip
def test_the_sqlstate_tells_who_acts(sqlstate: str, error: type[ProtheonError]) -> None:
    exc = psycopg.errors.lookup(sqlstate)("words that mean nothing")
    told = translate(exc, PLACE)
    assert type(told) is error
    assert sqlstate in str(told)
    assert is_line_fault(exc) is (error is SchemaViolation)
    assert is_passing(exc) is (error is LedgerUnavailable)
    if error is not SchemaViolation:
        assert "database 'reports' at db.example:5432, role 'loader'" in str(told)


@pytest.mark.parametrize("sqlstate", [state for state in ADVICE if len(state) == 5 and state != "08001"])
def test_each_advice_is_given_for_an_error_that_is_no_lines_fault(sqlstate: str) -> None:
    head, advice = ADVICE[sqlstate]
    told = str(translate(psycopg.errors.lookup(sqlstate)("what the server says")))
    assert told == f"{head}: what the server says (SQLSTATE {sqlstate}); {advice}"


def test_a_lost_connection_is_waited_for_and_a_misused_driver_is_a_defect() -> None:
    assert type(translate(psycopg.OperationalError("consuming input failed: EOF"))) is LedgerUnavailable
    assert type(translate(psycopg.InterfaceError("the cursor is closed"))) is InvariantError
    assert type(translate(psycopg.ProgrammingError("no result available"))) is InvariantError
    assert not is_line_fault(psycopg.OperationalError("consuming input failed: EOF"))


def test_two_transactions_that_met_are_no_outage() -> None:
    assert [is_outage(state) for state in (None, "53100", "57P01", "08006", "40P01", "55P03")] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ('password authentication failed for user "loader"', ConfigError, "password"),
        ('role "loader" does not exist', ConfigError, "no such database or role"),
        ('database "reports" does not exist', ConfigError, "no such database or role"),
        ('no pg_hba.conf entry for host "10.0.0.9", user "loader", database "reports", no encryption', ConfigError, "pg_hba.conf"),
        ("sorry, too many clients already", LedgerUnavailable, "max_connections"),
        ('too many connections for role "loader"', LedgerUnavailable, "CONNECTION LIMIT"),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", LedgerUnavailable, "max_connections"),
        ("the database system is starting up", LedgerUnavailable, "starting, recovering or stopping"),
        ("the database system is not yet accepting connections", LedgerUnavailable, "starting, recovering or stopping"),
        ("the database system is shutting down", LedgerUnavailable, "starting, recovering or stopping"),
        ("fe_sendauth: no password supplied", ConfigError, "put it into ~/.pgpass or PGPASSWORD"),
        ("something new", LedgerUnavailable, "does not answer"),
        ("SSL error: unexpected eof while reading", LedgerUnavailable, "does not answer"),
        ("SSL error: certificate verify failed", ConfigError, "do not agree on TLS"),
    ],
)
def test_what_a_server_says_at_connect_is_told_with_what_to_do(said: str, error: type[ProtheonError], words: str) -> None:
    told = refused_at_connect(psycopg.OperationalError(PREFIX + said), PLACE)
    assert type(told) is error
    assert words in str(told)
    assert said in str(told)
    assert str(PLACE) in str(told)


def test_every_word_at_connect_has_its_advice() -> None:
    assert {state for _, state in CONNECT_WORDS if state} <= ADVICE.keys()


def test_libpqs_hint_is_a_sentence_of_its_own() -> None:
    said = 'connection to server at "::1", port 1 failed: Connection refused\n\tIs the server running on that host?\n'
    assert str(refused_at_connect(psycopg.OperationalError(said), PLACE)).endswith(
        "Connection refused. Is the server running on that host?"
    )
