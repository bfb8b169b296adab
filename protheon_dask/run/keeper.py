"""The lease keeper: one thread of a worker process renews the leases of all its attempts in one statement."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from protheon_dask.errors import LeaseLost, ProtheonError
from protheon_dask.ledger import verbs
from protheon_dask.ledger.connect import Connection, connect, translated
from protheon_dask.ledger.transaction import sever
from protheon_dask.model import Lease

logger = logging.getLogger(__name__)

RECONNECT_S = 1.0
"""Pause between tries while PostgreSQL is away."""


class Attempt:
    """An attempt as this process knows it: is it still ours, and does it make progress? Shared by worker and keeper threads."""

    def __init__(self, lease: Lease, now: Callable[[], float] = time.monotonic) -> None:
        self.lease = lease
        self._now = now
        self._lost = threading.Event()
        self._statements = 0
        self.progressed_at = now()
        self.connection: Connection | None = None  # of its data transaction; severed when the lease is lost

    def progress(self, _amount: object = None) -> None:
        """A byte, a row or a batch went through."""
        self.progressed_at = self._now()

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


class LeaseKeeper:
    """Renews until an attempt is dropped. Its thread starts with the first attempt, is a daemon, and has its own connection."""

    def __init__(self, url: str, *, lease_s: float, renew_s: float, stall_s: float, on_stall: Callable[[Attempt], None]) -> None:
        self._url, self._lease_s, self._renew_s, self._stall_s = url, lease_s, renew_s, stall_s
        self._on_stall = on_stall
        self._attempts: dict[Lease, Attempt] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._conn: Connection | None = None

    @contextmanager
    def held(self, lease: Lease) -> Iterator[Attempt]:
        """Keep the lease for the time of the block."""
        attempt = Attempt(lease)
        with self._lock:
            self._attempts[lease] = attempt
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="protheon-lease-keeper", daemon=True)
                self._thread.start()
        try:
            yield attempt
        finally:
            with self._lock:
                del self._attempts[lease]

    def _keep(self) -> None:
        pause_s, is_answered = self._renew_s, True
        while True:
            time.sleep(pause_s)
            with self._lock:
                attempts = dict(self._attempts)
            if is_answered:  # while PostgreSQL is away an attempt that waits for it looks like one that stands still
                for attempt in attempts.values():
                    if attempt.is_stalled(self._stall_s):
                        self._on_stall(attempt)
            is_answered = not attempts or self._renew(attempts)
            pause_s = self._renew_s if is_answered else min(RECONNECT_S, self._renew_s)

    def _renew(self, attempts: dict[Lease, Attempt]) -> bool:
        """Renew all; False while PostgreSQL is away."""
        try:
            if self._conn is None or self._conn.closed:
                self._conn = connect(self._url, application="protheon-lease")
            with translated():
                answers = verbs.renew(self._conn, list(attempts), self._lease_s)
        except ProtheonError as exc:
            logger.warning("lease.renew_failed", extra={"attempts": len(attempts), "error": str(exc)})
            if self._conn is not None:
                self._conn.close()
            self._conn = None
            return False
        for lease, attempt in attempts.items():
            if lease not in answers and lease in self._attempts:
                logger.warning("lease.lost", extra={"task_id": lease.task_id, "attempt_no": lease.attempt_no})
                attempt.lose()
        return True
