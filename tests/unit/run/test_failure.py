"""What ends an attempt: its cost, and whether the run must pause, as a table."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

import protheon_dask as protheon
from protheon_dask import errors, words
from protheon_dask.model import Cost
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.run.failure import failure_of
from protheon_dask.run.ingest import RejectLimitCrossed

NOTHING: list[Exception] = [
    errors.SourceUnavailable("away"),
    errors.BrokerUnavailable("away"),
    errors.ChunkUnavailable("being cut again"),
    errors.ChunkOutdated("a new generation"),
    errors.ChunkGap(5, 7),
    errors.ChecksumMismatch("aa", "bb"),
    errors.LedgerUnavailable("away"),
    psycopg.OperationalError("the connection was closed"),
    pg.DeadlockDetected("deadlock detected"),
    pg.SerializationFailure("could not serialize"),
    pg.LockNotAvailable("canceling statement due to lock timeout"),
    pg.DiskFull("no space left"),
    pg.AdminShutdown("terminating connection"),
    pg.QueryCanceled("canceling statement"),
]
OPERATOR: list[Exception] = [
    errors.TargetRefused("table public.t does not exist"),
    pg.UndefinedTable("relation does not exist"),
    pg.InsufficientPrivilege("permission denied"),
    pg.InvalidPassword("password authentication failed"),
    pg.InvalidCatalogName("no such database"),
    pg.FeatureNotSupported("not supported"),
]
FAILURES: list[Exception] = [
    ValueError("bad"),
    MemoryError(),
    ImportError("no module named x"),
    RecursionError("too deep"),
    errors.ConfigError("the pipeline is another one here"),
    errors.InvariantError("cannot happen"),
    errors.SchemaViolation("a row does not fit", "23505", "public.t"),
    pg.InternalError_("a defect of the server"),
    pg.UniqueViolation("duplicate key"),
]


def name(exc: Exception) -> str:
    return type(exc).__name__


@pytest.mark.parametrize("exc", NOTHING, ids=name)
def test_an_outage_costs_nothing_and_pauses_nothing(exc: Exception) -> None:
    failed = failure_of(exc)
    assert (failed.cost, failed.pause) == (Cost.NOTHING, None)
    assert failed.message


@pytest.mark.parametrize("exc", OPERATOR, ids=name)
def test_what_only_the_operator_can_mend_pauses_the_run_at_no_cost(exc: Exception) -> None:
    failed = failure_of(exc)
    assert failed.cost is Cost.NOTHING
    assert failed.pause


@pytest.mark.parametrize("exc", FAILURES, ids=name)
def test_all_else_is_a_failure_with_its_traceback(exc: Exception) -> None:
    with pytest.raises(type(exc)) as raised:
        raise exc
    failed = failure_of(raised.value)
    assert (failed.cost, failed.pause) == (Cost.FAILURE, None)
    assert failed.error_class == name(exc)
    assert failed.traceback is not None
    assert "test_failure.py" in failed.traceback
    assert failed.message


def test_the_reject_limit_pauses_the_run_with_its_own_words() -> None:
    failed = failure_of(RejectLimitCrossed("7 of 10 lines are rejected"))
    assert (failed.cost, failed.pause) == (Cost.NOTHING, "7 of 10 lines are rejected")


def test_the_sqlstate_behind_a_translated_error_is_kept() -> None:
    error = errors.LedgerUnavailable("PostgreSQL cannot serve us now")
    error.__cause__ = pg.DeadlockDetected("deadlock detected")
    assert failure_of(error).sqlstate == "40P01"


def test_a_refused_connection_is_the_operators_and_a_pipelines_own_refusal_a_failure() -> None:
    refused = errors.ConfigError("PostgreSQL does not know this role by this password")
    refused.__cause__ = psycopg.OperationalError("password authentication failed")
    assert (failure_of(refused).cost, failure_of(refused).pause) == (Cost.NOTHING, str(refused))
    assert failure_of(errors.ConfigError("no module of that name")).cost is Cost.FAILURE


def test_a_traceback_begins_in_the_code_of_the_person() -> None:
    def total(line: dict[str, Any]) -> int:
        try:
            return int(line["n"])
        except ValueError as error:
            raise MemoryError("no room") from error

    pipeline = protheon.pipeline(tables=[protheon.Table(name="public.t", columns=(protheon.Column("n", "bigint"),))])(total)
    with pytest.raises(MemoryError) as caught:
        pipeline.open(ChunkContext(0, 0, "")).transform([b'{"n": "x"}'], [1])
    told = story_without_this_test(caught.value)
    assert [line.rpartition(" in ")[2] for line in told.splitlines() if line.startswith('  File "')] == ["total", "total"]
    assert told.endswith("MemoryError: no room\n")


def test_a_traceback_without_a_persons_code_is_whole() -> None:
    with pytest.raises(ValueError, match="could not convert") as caught:
        words.size("many")  # type: ignore[arg-type]
    assert "words.py" in story_without_this_test(caught.value)


def story_without_this_test(error: BaseException) -> str:
    """What the ledger would keep; to it a test is a person's code."""
    assert error.__traceback__ is not None
    failed = failure_of(error.with_traceback(error.__traceback__.tb_next))  # type: ignore[arg-type]
    assert failed.traceback is not None
    return failed.traceback
