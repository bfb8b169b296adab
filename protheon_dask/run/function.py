"""Any other handler than ``ingest``: a registered Python function, JSON in and JSON out, in the same fenced data transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from protheon_dask.errors import ProtheonError
from protheon_dask.ledger import verbs
from protheon_dask.ledger.lent import LentConnection
from protheon_dask.model import Returned, StageClock
from protheon_dask.pipelines.function import find_task, to_json
from protheon_dask.run.keeper import Attempt, Pulse


class FunctionFailed(ProtheonError):
    """The function of a task raised, or could not be found; its __cause__ is what it raised."""

    def __init__(self, handler: str) -> None:
        super().__init__(handler)
        self.handler = handler

    def __str__(self) -> str:
        return f"{self.handler} raised"


class FunctionCall:
    """One attempt at a task: the function's TaskContext, and what completes it. Single use.

    lend: opens the attempt's data transaction on a connection of its own; called once at most.
    """

    def __init__(
        self, claimed: verbs.Claimed, attempt: Attempt, clock: StageClock, pause_s: float, lend: Callable[[], LentConnection]
    ) -> None:
        self.claimed, self.attempt, self.clock = claimed, attempt, clock
        self._lend = lend
        self._lent: LentConnection | None = None
        self._not_lent: ProtheonError | None = None  # what the last try to get a connection ended with
        self._pulse = Pulse(attempt, self._check_fence, pause_s)

    # --- TaskContext: called by the function ----------------------------------------------------------------------------

    @property
    def task_id(self) -> int:
        return self.claimed.lease.task_id

    @property
    def attempt_no(self) -> int:
        return self.claimed.lease.attempt_no

    def progress(self) -> None:
        self._pulse()

    def check(self) -> None:
        self.attempt.check()

    @property
    def connection(self) -> LentConnection:
        self.attempt.check()
        if self._lent is None:
            try:
                lent = self._lent = self._lend()
            except ProtheonError as exc:
                self._not_lent = exc
                raise
            self._not_lent = None
            self.attempt.is_busy = lent.was_busy
        return self._lent

    # --- called by the worker -------------------------------------------------------------------------------------------

    def call(self) -> tuple[Returned, LentConnection | None]:
        """Call the function. Returns its result, and the connection with the data transaction if it has opened that.

        Raises: LeaseLost; LedgerUnavailable: PostgreSQL is to blame; FunctionFailed: the function is: it raised, is not here, its result
                is no JSON, or it ended the transaction itself. The caller rolls back what is open.
        """
        handler, started_s = self.claimed.handler, self.clock.enter("transform", time.perf_counter())
        try:
            result_json = to_json(self._called(handler), f"what {handler} returned")
            if self._lent is not None:
                self._lent.take_back()
                self._lent.check_intact()
        except (Exception, SystemExit) as exc:  # the author's code may raise anything; it becomes a value in the ledger
            self.attempt.check()  # a severed connection is a lost lease, not a failure
            outage = self._outage_of(exc)
            if outage is exc or (outage is not None and outage.__cause__ is not None):
                raise outage  # noqa: B904  # it has its cause
            if outage is not None:
                raise outage from exc
            raise FunctionFailed(handler) from exc
        finally:
            self.attempt.is_busy = lambda: False
            if self._lent is not None:
                self._lent.take_back()  # however the function ended
            self.attempt.progress()
            self.clock.add("transform", time.perf_counter() - started_s)
        return Returned(result_json), self._lent

    def _called(self, handler: str) -> Any:
        function, payload = find_task(handler), self.claimed.payload
        return function(payload, self) if function.takes_context else function(payload)

    def _outage_of(self, exc: BaseException) -> ProtheonError | None:
        """What ended the function if it was PostgreSQL's need; None: its own error, also after an outage that it had survived."""
        if self._not_lent is not None and any(cause is self._not_lent for cause in _causes(exc)):
            return self._not_lent
        return self._lent.outage_of(exc) if self._lent is not None else None

    def _check_fence(self) -> None:
        """The server ends a transaction whose client says nothing for long; outside of one there is nothing to look at."""
        if self._lent is not None and self._lent.is_idle:
            verbs.check_fence(self._lent, self.claimed.lease)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error, and all that it was raised from or while handling."""
    told: set[int] = set()
    waiting: list[BaseException | None] = [exc]
    while waiting:
        if (one := waiting.pop()) is not None and id(one) not in told:
            told.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
