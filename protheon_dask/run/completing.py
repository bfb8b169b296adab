"""The end of each data transaction, whatever its handler is: complete as its last statement, then COMMIT."""

from __future__ import annotations

import time
from typing import Protocol

from protheon_dask import failpoints
from protheon_dask.ledger import transaction, verbs
from protheon_dask.ledger.connect import Connection
from protheon_dask.model import Loaded, Returned, StageClock
from protheon_dask.run.keeper import Attempt


class Work(Protocol):
    """What an attempt works on, as far as its end is concerned."""

    @property
    def claimed(self) -> verbs.Claimed: ...
    @property
    def attempt(self) -> Attempt: ...
    @property
    def clock(self) -> StageClock: ...


def complete(work: Work, conn: Connection, done: Loaded | Returned) -> None:
    """Write the last statements of the data transaction and commit it.

    Raises: LeaseLost: roll back. transaction.CommitUnanswered: only the ledger knows.
    """
    failpoints.hit("complete.before")
    with work.attempt.in_flight():
        started_s = work.clock.enter("ledger", time.perf_counter())
        verbs.complete(conn, work.claimed.lease, done, work.clock)
        work.clock.add("ledger", time.perf_counter() - started_s)
    failpoints.hit("complete.after")
    failpoints.hit("commit.before")
    with work.attempt.in_flight():
        started_s = work.clock.enter("commit", time.perf_counter())
        transaction.commit(conn)
        work.clock.add("commit", time.perf_counter() - started_s)
    failpoints.hit("commit.after")
