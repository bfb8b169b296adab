"""A database in which Protheon never was has no runs: reports say that, and not that a ledger is to be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protheon_dask.errors import MigrationPending, NotFound
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.migrate import applied
from protheon_dask.run import api


@pytest.mark.parametrize(
    "ask",
    [
        *(lambda url, name=name: api.report(url, name) for name in api.REPORTS),
        lambda url: api.report(url, "files", 3),
        api.run_statistics,
        api.verify_run,
        lambda url: api.plan_undo(url, 1),
        api.pause_run,
        api.cancel_run,
    ],
)
def test_a_report_on_a_database_without_a_ledger_says_that_there_are_no_runs_yet(database: str, ask: Callable[[str], Any]) -> None:
    with pytest.raises(NotFound, match="there are no runs in this database yet"):
        ask(database)


def test_the_ledger_itself_is_still_asked_for_and_nothing_is_made(database: str) -> None:
    with pytest.raises(MigrationPending, match="run `protheon db migrate`"):
        api.ledger_status(database)
    assert api.report(database, "runs") == []
    with opened(database, application="test") as conn:
        assert applied(conn) == 0
