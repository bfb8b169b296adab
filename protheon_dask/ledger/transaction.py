"""The data transaction of a chunk: one connection, one transaction, fenced, and what to do when its COMMIT is not answered."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

import psycopg

from protheon_dask import postgres
from protheon_dask.errors import LeaseLost, LedgerUnavailable, ProtheonError
from protheon_dask.ledger import hosts, verbs
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.statements import statement
from protheon_dask.model import Lease, Outcome, Seen

COMMIT_OUTCOME_UNKNOWN = ("57P01", "57P02", "57P03")
"""SQLSTATEs of a server that is going down: the COMMIT may or may not have been written."""
ENOUGH_WORK_MEM = """
SELECT set_config('work_mem', '32MB', true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('32MB')
"""
"""A chunk's merge sorts some 13 MB of rows: in memory, not on disk."""
OLD_BACKEND_S = 30.0
"""How long the old transaction of a lost COMMIT is waited for before its backend is terminated."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time-outs of a data transaction, SET LOCAL so that a pooler may stand between. All in seconds."""

    advisory_wait_s: float  # for the task's advisory lock: for an attempt before this one to end
    lock_s: float  # for any other lock: the lease, since nobody waits longer for us
    idle_s: float  # the server ends a transaction whose client said nothing for this long


class CommitUnanswered(LedgerUnavailable):
    """The connection died in COMMIT: only resolve() knows whether the rows are there."""


def begin(conn: psycopg.Connection, lease: Lease, timeouts: Timeouts) -> None:
    """Open the data transaction of an attempt: time-outs, the task's advisory lock, a look at the fence; one round trip.

    Raises:    LeaseLost: another attempt owns the task. psycopg.Error: as the server says (55P03: an attempt before this
               one still holds its transaction); the caller rolls back.
    Guarantee: two attempts of one task never have open data transactions side by side.
    """
    with conn.pipeline():
        conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        conn.execute(postgres.NO_TIMEOUTS)
        conn.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)",
            (_ms(timeouts.advisory_wait_s), _ms(timeouts.idle_s)),
        )
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (verbs.advisory_key(lease.task_id),))
        conn.execute("SELECT set_config('lock_timeout', %s, true)", (_ms(timeouts.lock_s),))
        conn.execute(ENOUGH_WORK_MEM)
        fence = conn.execute(statement("fence"), {"task_id": lease.task_id, "attempt_no": lease.attempt_no})
    if fence.fetchone() is None:
        raise LeaseLost(lease.task_id, lease.attempt_no)


def commit(conn: psycopg.Connection) -> None:
    """Commit the data transaction. Raises: CommitUnanswered; psycopg.Error: the server refused, nothing is visible."""
    try:
        conn.execute("COMMIT")
    except psycopg.OperationalError as exc:
        if exc.sqlstate is None or exc.sqlstate in COMMIT_OUTCOME_UNKNOWN or exc.sqlstate.startswith("08"):
            raise CommitUnanswered("the connection to PostgreSQL broke in COMMIT") from exc
        raise


def rollback(conn: psycopg.Connection) -> None:
    """Roll back whatever is open; a broken connection is closed, which does the same. Never raises."""
    try:
        if conn.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            conn.close()  # in the midst of a COPY, say: a statement would wait for its end for ever
        elif conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
    except psycopg.Error:
        conn.close()


def resolve_commit(url: str, lease: Lease) -> verbs.Resolved:
    """Learn on a new connection what became of an unanswered COMMIT (DESIGN 6).

    Raises:    LedgerUnavailable: PostgreSQL is away; ask again. The outcome stays unknown until an answer came.
    Guarantee: waits for the old transaction's end, after OLD_BACKEND_S by terminating its backend, so the answer is final.
               An attempt that is over is not waited for: the lock is then its successor's, who is left in peace.
    """
    with opened(url, application="protheon-worker") as conn:
        key = verbs.advisory_key(lease.task_id)
        if (over := _resolved_by_end(conn, lease)) is not None:
            return over
        try:
            with conn.transaction():
                return _resolve_locked(conn, lease, key)
        except psycopg.errors.LockNotAvailable:
            if (over := _resolved_by_end(conn, lease)) is not None:  # it was taken back while this waited
                return over
            verbs.terminate(conn, [lease.task_id])
        with conn.transaction():
            return _resolve_locked(conn, lease, key)


def _resolved_by_end(conn: psycopg.Connection, lease: Lease) -> verbs.Resolved | None:
    """The answer where the attempt's end is committed: nothing changes it any more. None: it is open still, and a look may be overtaken."""
    ended = hosts.ended_attempt(conn, Seen(lease.task_id, lease.attempt_no))
    return None if ended is None else verbs.Resolved(committed=ended.outcome is Outcome.SUCCEEDED, still_ours=False)


def _resolve_locked(conn: psycopg.Connection, lease: Lease, key: int) -> verbs.Resolved:
    conn.execute(postgres.NO_TIMEOUTS)
    conn.execute("SELECT set_config('lock_timeout', %s, true)", (_ms(OLD_BACKEND_S),))
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
    return verbs.resolve(conn, lease)


def sever(conn: psycopg.Connection) -> None:
    """Break a connection that another thread is using: what it waits for fails at once. Never raises.

    The socket is shut down and nothing else: libpq's own structures belong to the other thread.
    """
    with contextlib.suppress(OSError, psycopg.Error):
        shared = socket.socket(fileno=conn.fileno())
        try:
            shared.shutdown(socket.SHUT_RDWR)
        finally:
            shared.detach()


def as_error(exc: Exception, place: postgres.Place | None = None) -> ProtheonError | None:
    """What a foreign error of the data transaction is in our words; None: it is not PostgreSQL's. place: where it was."""
    if isinstance(exc, ProtheonError):
        return exc
    return postgres.translate(exc, place) if isinstance(exc, psycopg.Error) else None


def sqlstate_of(exc: BaseException) -> str | None:
    """The SQLSTATE behind an error, where there is one."""
    said = _server_error(exc)
    return said.sqlstate if said is not None else None


def is_of_server(exc: BaseException) -> bool:
    """Tell whether PostgreSQL, or the way to it, is behind an error; what is said at connect has no SQLSTATE."""
    return _server_error(exc) is not None


def _server_error(exc: BaseException | None) -> psycopg.Error | None:
    while exc is not None and not isinstance(exc, psycopg.Error):
        exc = exc.__cause__
    return exc


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
