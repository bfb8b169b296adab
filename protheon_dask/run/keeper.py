"""The lease keeper: one thread of a worker process renews the leases of all its attempts in one statement."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from protheon_dask.errors import LeaseLost, ProtheonError
from protheon_dask.ledger import hosts, verbs
from protheon_dask.ledger.connect import Connection, connect, translated
from protheon_dask.ledger.transaction import sever
from protheon_dask.model import Cost, Lease, Seen

logger = logging.getLogger(__name__)

LOOKS = 4
"""How often an attempt with a stall_s of its own is looked at within that time, where it is short."""
RECONNECT_S = 1.0
"""Pause between tries while PostgreSQL is away."""


class Attempt:
    """An attempt as this process knows it: is it still ours, and does it make progress? Shared by worker and keeper threads."""

    def __init__(self, lease: Lease, now: Callable[[], float] = time.monotonic, stall_s: float | None = None) -> None:
        self.lease = lease
        self.stall_s = stall_s  # its own, from its task; None: the process's
        self._now = now
        self._lost = threading.Event()
        self._statements = 0
        self.progressed_at = now()
        self.connection: Connection | None = None  # of its data transaction; severed when the lease is lost
        self.is_busy: Callable[[], bool] = lambda: False  # asked too: a statement runs that in_flight() does not know of

    def progress(self, _amount: object = None) -> None:
        """A byte, a row or a batch went through."""
        self.progressed_at = self._now()

    def overlook(self, seconds: float) -> None:
        """The process, or its machine, stood still for so long: that time is no silence of the attempt."""
        self.progressed_at = min(self._now(), self.progressed_at + seconds)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """While a statement runs at the server the attempt does not stall, however long it takes."""
        self._statements += 1
        try:
            yield
        finally:
            self._statements -= 1
            self.progress()

    def is_stalled(self, stall_s: float) -> bool:
        if self.is_busy():
            self.progress()
        return self._statements == 0 and self._now() - self.progressed_at > stall_s

    def lose(self) -> None:
        """The lease is somebody else's: break the data connection at once, so that nothing more is written."""
        self._lost.set()
        if (conn := self.connection) is not None:
            sever(conn)

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    def check(self) -> None:
        """Raise LeaseLost once the lease is known to be lost."""
        if self._lost.is_set():
            raise LeaseLost(self.lease.task_id, self.lease.attempt_no)

    def wait(self, seconds: float) -> None:
        """Sleep, and raise LeaseLost as soon as the lease is lost."""
        self._lost.wait(seconds)
        self.check()


class Pulse:
    """Progress of slow work within the data transaction: tells the keeper each time, and looks at the fence after each silence of pause_s.

    That look is a statement: the server ends a transaction whose client says nothing for long (transaction.Timeouts.idle_s).
    """

    def __init__(self, attempt: Attempt, check_fence: Callable[[], None], pause_s: float) -> None:
        self._attempt, self._check_fence, self._pause_s = attempt, check_fence, pause_s
        self._spoke_at = attempt.progressed_at

    def __call__(self) -> None:
        attempt = self._attempt
        attempt.check()
        attempt.progress()
        if attempt.progressed_at - self._spoke_at > self._pause_s:
            with attempt.in_flight():
                self._check_fence()
            self._spoke_at = attempt.progressed_at


class LeaseKeeper:
    """Renews until an attempt is dropped. Its thread starts with the first attempt, is a daemon, has its own connection; see close()."""

    def __init__(self, url: str, *, lease_s: float, renew_s: float, stall_s: float, on_stall: Callable[[Attempt], None]) -> None:
        self._url, self._lease_s, self._renew_s, self._stall_s = url, lease_s, renew_s, stall_s
        self._on_stall = on_stall
        self._attempts: dict[Lease, Attempt] = {}
        self._lock = threading.Lock()
        self._sooner = threading.Event()  # an attempt came that is looked at more often, or the leases are to be renewed now
        self._is_hurried = self._is_closed = False
        self._lost: set[Lease] = set()  # attempts that were taken from this process, which lives: their losses are to be given back
        self._thread: threading.Thread | None = None
        self._conn: Connection | None = None

    @contextmanager
    def held(self, lease: Lease, stall_s: float | None = None) -> Iterator[Attempt]:
        """Keep the lease for the time of the block. stall_s: the attempt's own, instead of the keeper's."""
        attempt = Attempt(lease, stall_s=stall_s)
        with self._lock:
            self._attempts[lease] = attempt
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="protheon-lease-keeper", daemon=True)
                self._thread.start()
        if stall_s is not None:
            self._sooner.set()
        try:
            yield attempt
        finally:
            with self._lock:
                del self._attempts[lease]

    def hurry(self) -> None:
        """Renew now: the process may end soon, and has perhaps slept."""
        self._is_hurried = True
        self._sooner.set()

    def close(self) -> None:
        """No attempt comes any more, and none is held: let the thread end. What it has to give back it says once more, and hangs up."""
        self._is_closed = True
        self._sooner.set()

    def give_back_nowait(self, lease: Lease) -> None:
        """The attempt is no longer ours, but the process lives: what that loss cost its task is taken off again."""
        with self._lock:
            self._lost.add(lease)
        self.hurry()

    def give_back(self, lease: Lease) -> None:
        """As give_back_nowait, but said when this returns, if PostgreSQL answers. For on_stall alone, on the keeper's own thread."""
        with self._lock:
            self._lost.add(lease)
        self._give_back()

    def _keep(self) -> None:
        looked_at = time.monotonic()
        renew_at, is_answered = looked_at + self._renew_s, True
        while not self._is_closed:
            looks_s = [item.stall_s / LOOKS for item in self._snapshot().values() if item.stall_s is not None]
            wait_s = max(0.0, min([renew_at - time.monotonic(), *looks_s]))
            self._sooner.wait(wait_s)
            self._sooner.clear()
            # A machine that slept or was paused, a process that was stopped: what the keeper missed, its attempts missed too.
            now_s = time.monotonic()
            late_s, looked_at = max(0.0, now_s - looked_at - wait_s), now_s
            if self._is_hurried:
                self._is_hurried, renew_at = False, time.monotonic()
            attempts = self._snapshot()
            if is_answered:  # while PostgreSQL is away an attempt that waits for it looks like one that stands still
                for attempt in attempts.values():
                    attempt.overlook(late_s)
                    if attempt.is_stalled(self._stall_s if attempt.stall_s is None else attempt.stall_s):
                        self._on_stall(attempt)
            if time.monotonic() >= renew_at:
                is_answered = (not attempts or self._renew(attempts)) and (not self._lost or self._give_back())
                renew_at = time.monotonic() + (self._renew_s if is_answered else min(RECONNECT_S, self._renew_s))
        if self._lost:
            self._give_back()
        self._drop_connection()

    def attempts(self) -> list[Attempt]:
        """Those that are held now."""
        return list(self._snapshot().values())

    def _snapshot(self) -> dict[Lease, Attempt]:
        with self._lock:
            return dict(self._attempts)

    def _renew(self, attempts: dict[Lease, Attempt]) -> bool:
        """Renew all; False while PostgreSQL is away."""
        try:
            with translated():
                answers = verbs.renew(self._connection(), list(attempts), self._lease_s)
        except ProtheonError as exc:
            logger.warning("lease.renew_failed", extra={"attempts": len(attempts), "error": str(exc)})
            self._drop_connection()
            return False
        for lease, attempt in attempts.items():
            if lease not in answers and lease in self._attempts:
                logger.warning("lease.lost", extra={"task_id": lease.task_id, "attempt_no": lease.attempt_no})
                attempt.lose()
                with self._lock:
                    self._lost.add(lease)
        return True

    def _give_back(self) -> bool:
        """Say of attempts that were taken from this process that it lives; False while PostgreSQL is away: they are said again.

        So are those whose tasks are locked: this thread waits for no row, while the leases of all others run out.
        """
        with self._lock:
            lost = list(self._lost)
        try:
            with translated():
                answers = hosts.give_back(self._connection(), [Seen(lease.task_id, lease.attempt_no) for lease in lost], (Cost.LOSS,))
        except ProtheonError as exc:
            logger.warning("lease.give_back_failed", extra={"attempts": len(lost), "error": str(exc)})
            self._drop_connection()
            return False
        locked = {item.seen for item in answers if item.is_locked}
        for item in (item for item in answers if not item.is_locked):
            logger.warning(
                "task.give_back", extra={"task_id": item.seen.task_id, "attempt_no": item.seen.attempt_no, "is_back": item.is_back}
            )
        with self._lock:
            self._lost.difference_update(lease for lease in lost if Seen(lease.task_id, lease.attempt_no) not in locked)
        return True

    def _connection(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._url, application="protheon-lease")
        return self._conn

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None
