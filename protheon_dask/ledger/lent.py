"""A data connection that is lent to a function of the general queue: inside the transaction that ends its task, and no more than that."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from protheon_dask import postgres
from protheon_dask.errors import ConfigError, LedgerUnavailable, ProtheonError
from protheon_dask.ledger.connect import connect

T = TypeVar("T")

SAVEPOINT = "put a statement that may fail into: with context.connection.transaction():"


class LentConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose transaction only Protheon ends; otherwise psycopg's own. One for each attempt that asks for it."""

    _is_lent = False
    _began_at: datetime | None = None  # the transaction's now() when it was lent
    _n_waiting = 0  # waits for the server that are under way
    _has_moved = False  # one ended since was_busy() was asked last

    def lend(self) -> None:
        """From here on the function has it, in the open transaction."""
        [(self._began_at,)] = self.execute("SELECT now()").fetchall()
        self._is_lent = True

    def take_back(self) -> None:
        """From here on Protheon has it, in the transaction as the function left it, and otherwise as it was."""
        self._is_lent = False
        self.row_factory, self.cursor_factory = tuple_row, psycopg.Cursor

    def check_intact(self) -> None:
        """See that the transaction can be committed as the task's.

        Raises: ConfigError: it is not as it was lent: what is wrong, and what to do. LedgerUnavailable: the connection is lost.
        """
        match self.info.transaction_status:
            case TransactionStatus.UNKNOWN:
                raise LedgerUnavailable("the connection to PostgreSQL broke while the function had it")
            case TransactionStatus.INERROR:
                raise ConfigError(f"a statement of the function failed and the function went on, but its transaction cannot: {SAVEPOINT}")
            case TransactionStatus.ACTIVE:
                raise ConfigError("the function returned in the midst of a COPY or a statement: end it before the return")
            case TransactionStatus.INTRANS if [(self._began_at,)] == self.execute("SELECT now()").fetchall():
                return
            case _:
                raise ConfigError(
                    "the function ended the transaction of its task by a statement of its own: what it had written then stands alone, and "
                    "is repeated by the next attempt; leave COMMIT and ROLLBACK out, return to commit and raise to roll back"
                )

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """psycopg's: all that is sent and received goes through here, each statement, write and read."""
        self._n_waiting += 1
        try:
            return super().wait(gen, *args, **kwargs)
        finally:
            self._n_waiting -= 1
            self._has_moved = True

    def was_busy(self) -> bool:
        """A statement of the function runs at the server, and in a COPY or a stream something went through since this was asked last.

        From any thread: libpq's own state is read, nothing is sent. That state alone would have a function that hangs in a COPY block,
        where the server waits for it, at work for ever.
        """
        has_moved, self._has_moved = self._has_moved, False
        return self.info.transaction_status is TransactionStatus.ACTIVE and (self._n_waiting > 0 or has_moved)

    @property
    def is_idle(self) -> bool:
        """Between two statements, in a transaction that works."""
        return self.info.transaction_status is TransactionStatus.INTRANS

    def outage_of(self, exc: BaseException) -> ProtheonError | None:
        """What ended the function if it was PostgreSQL's need and not the function's fault; None: the function's own error."""
        if self.broken:
            return LedgerUnavailable(f"the connection to PostgreSQL broke while the function had it: {exc}")
        if isinstance(exc, psycopg.Error) and self.info.transaction_status is TransactionStatus.INERROR and postgres.is_passing(exc):
            return postgres.translate(exc)
        return None

    def commit(self) -> None:
        self._refuse_if_lent("commit()")
        super().commit()

    def rollback(self) -> None:
        self._refuse_if_lent("rollback()")
        super().rollback()

    def close(self) -> None:
        self._refuse_if_lent("close(), or the end of a with block of it,")
        super().close()

    def _refuse_if_lent(self, what: str) -> None:
        if self._is_lent:
            raise ConfigError(
                f"{what} of a task's connection is refused: its transaction ends with the task; return from the function to commit, raise "
                f"to roll back, and {SAVEPOINT}"
            )


def open_lent(url: str) -> LentConnection:
    """A new connection, not lent yet. Raises as connect()."""
    conn = connect(url, application="protheon-task", kind=LentConnection)
    assert isinstance(conn, LentConnection), "psycopg makes what it is asked for"
    return conn
