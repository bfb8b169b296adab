"""Worker processes that were given up but live on and hold Dask's thread: they are restarted through their nannies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from protheon_dask.ledger import hosts
from protheon_dask.ledger.connect import Connection
from protheon_dask.model import Dispatch, Seen
from protheon_dask.run.dask_link import WorkerSeen

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overdue:
    """An attempt that was expired and of whose process nothing was heard since."""

    process_uuid: UUID
    since: float  # monotonic seconds
    dispatch: Dispatch | None  # by whose answer this coordinator hears that the thread is free; None: it will not hear


class StuckWorkers:
    """Restarts a process once, when its expired attempt has not let go of Dask's thread within grace_s. Not thread-safe."""

    def __init__(self, grace_s: float, restart: Callable[[WorkerSeen], None]) -> None:
        self._grace_s, self._restart = grace_s, restart
        self._overdue: dict[Seen, Overdue] = {}
        self._restarted: set[UUID] = set()

    def expired(self, attempt: Seen, process_uuid: UUID, now: float, dispatch: Dispatch | None) -> None:
        """An attempt was expired while its process may live. dispatch: with which we sent it to Dask, and that is not answered yet."""
        self._overdue[attempt] = Overdue(process_uuid, now, dispatch)

    def answered(self, dispatch: Dispatch) -> None:
        """Dask has the attempt's thread back."""
        self._overdue.pop(Seen(dispatch.task_id, dispatch.attempt_no + 1), None)

    def forgotten(self, dispatch: Dispatch) -> None:
        """By this dispatch nothing will be heard of the thread: Dask forgot its key, as a new scheduler does, or it claimed nothing."""
        attempt = Seen(dispatch.task_id, dispatch.attempt_no + 1)
        item = self._overdue.get(attempt)
        if item is not None and item.dispatch == dispatch:
            self._overdue[attempt] = replace(item, dispatch=None)

    def settle(self, conn: Connection, workers: Sequence[WorkerSeen], now: float) -> None:
        """Restart what is stuck, and forget what is not.

        Of an attempt that we will not hear of, a sign of life is enough: its process has found its lease lost (hosts.give_back).
        """
        processes = {worker.process_uuid: worker for worker in workers}
        self._restarted &= set(processes)
        for attempt, item in list(self._overdue.items()):
            if now - item.since < self._grace_s:
                continue
            del self._overdue[attempt]
            worker = processes.get(item.process_uuid)
            if worker is None or item.process_uuid in self._restarted or not (item.dispatch or _is_silent(conn, attempt)):
                continue
            self._restarted.add(item.process_uuid)
            logger.error("worker.stuck", extra={"worker": worker.name, "host": worker.host, "task_id": attempt.task_id})
            self._restart(worker)


def _is_silent(conn: Connection, attempt: Seen) -> bool:
    ended = hosts.ended_attempt(conn, attempt)
    return ended is not None and not ended.given_back
