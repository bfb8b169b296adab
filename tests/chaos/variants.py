"""Protheon broken on purpose, one promise at a time: the campaign's judge must catch each of them, or it proves nothing.

The variable CHAOS_VARIANT names one. It is preloaded into worker processes (``dask worker --preload tests.chaos.variants``) and run in
the broker's place (``python -m tests.chaos.variants``); it replaces functions of the product there, which knows nothing of it.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import psycopg

from protheon_dask import failpoints
from protheon_dask.errors import LeaseLost
from protheon_dask.ledger import rows, transaction, verbs
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.statements import statement
from protheon_dask.model import ChunkManifest, Cost, Failed
from protheon_dask.run import broker, completing, ingest, keeper, worker
from protheon_dask.run.failure import failure_of

VARIABLE = "CHAOS_VARIANT"


def no_fence() -> None:
    """Whoever comes writes: nobody looks whether the attempt is still the task's."""
    _replace_sql(
        {
            "fence": {
                "SELECT 1 FROM protheon.task WHERE id = %(task_id)s AND state = 'running' AND attempt_no = %(attempt_no)s": "SELECT 1"
            },
            "complete": {
                "WHERE id = %(task_id)s AND state = 'running' AND attempt_no = %(attempt_no)s": "WHERE id = %(task_id)s",
                " AND attempt.ended_at IS NULL": "",
            },
        }
    )
    _set(keeper.Attempt, "lose", lambda _attempt: None)


def complete_outside() -> None:
    """The rows are committed first, and the attempt is ended after that, in a transaction of its own."""

    def complete(work: ingest.ChunkWork, conn: psycopg.Connection, loaded: Any) -> None:
        transaction.commit(conn)
        failpoints.hit("complete.before")
        with conn.transaction():
            verbs.complete(conn, work.claimed.lease, loaded, work.clock)

    _set(completing, "complete", complete)


def blind_retry() -> None:
    """A COMMIT that was not answered is taken for one that did not happen: the chunk is loaded again on a new connection."""
    load, complete, check_fence = ingest.load, completing.complete, verbs.check_fence
    fetched: dict[int, Any] = {}

    def noting_load(work: ingest.ChunkWork, stored: Any, conn: psycopg.Connection, **how: Any) -> Any:
        fetched[work.claimed.lease.task_id] = stored
        return load(work, stored, conn, **how)

    def complete_or_again(work: ingest.ChunkWork, conn: psycopg.Connection, loaded: Any) -> None:
        try:
            complete(work, conn, loaded)
        except transaction.CommitUnanswered:
            _set(verbs, "check_fence", lambda _conn, _lease: None)
            with opened(os.environ["PROTHEON_DATABASE_URL"], application="protheon-worker") as again:
                again.execute("BEGIN")
                anew = load(work, fetched[work.claimed.lease.task_id], again)
                try:
                    with again.transaction():
                        verbs.complete(again, work.claimed.lease, anew, work.clock)
                except (LeaseLost, psycopg.errors.UniqueViolation):
                    pass  # somebody ended it: the rows are there, is what it is blind for
                again.execute("COMMIT")
            _set(verbs, "check_fence", check_fence)

    _set(ingest, "load", noting_load)
    _set(completing, "complete", complete_or_again)


def identity_by_content() -> None:
    """A chunk whose bytes are known is that chunk, wherever it stands."""
    enqueue = verbs.enqueue

    def enqueue_new(conn: psycopg.Connection, epoch: int, load_id: int, manifest: ChunkManifest) -> int:
        known = conn.execute("SELECT min(task_id) FROM protheon.chunk WHERE raw_xxh3 = %s", (manifest.raw_xxh3,)).fetchone()
        assert known is not None
        return int(known[0]) if known[0] is not None else enqueue(conn, epoch, load_id, manifest)

    _set(verbs, "enqueue", enqueue_new)


def no_advisory_lock() -> None:
    """Attempts take locks that nobody else takes: they open data transactions side by side, and no backend is found to be ended."""
    _set(verbs, "advisory_key", lambda _task_id: secrets.randbits(62))


def charged_outages() -> None:
    """What nobody is to blame for is charged to the attempt as a failure."""

    def charging(exc: Exception, *given: Any) -> Failed:
        failed = failure_of(exc, *given)
        return replace(failed, cost=Cost.FAILURE) if failed.cost is Cost.NOTHING and failed.pause is None else failed

    _set(worker, "failure_of", charging)


def expiry_by_age() -> None:
    """An attempt is taken back when it is older than a lease, however well it does."""
    old = (
        "EXISTS (SELECT FROM protheon.attempt WHERE attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no "
        f"AND attempt.started_at < now() - interval '{float(os.environ['PROTHEON_LEASE_S'])} s')"
    )
    _replace_sql({"expire": {"task.lease_until_at < coalesce(%(now)s, now())": old}})


VARIANTS: Mapping[str, Callable[[], None]] = {
    breaks.__name__: breaks
    for breaks in (no_fence, complete_outside, blind_retry, identity_by_content, no_advisory_lock, charged_outages, expiry_by_age)
}


def _set(owner: Any, name: str, value: Any) -> None:
    """Put another in a function's place. Raises AttributeError: the product has no such function any more, and nothing would be broken."""
    getattr(owner, name)
    setattr(owner, name, value)


def _replace_sql(changes: Mapping[str, Mapping[str, str]]) -> None:
    """Change statements where they are used. Raises AssertionError: the text is not there, and nothing would be broken."""
    changed = {}
    for name, pairs in changes.items():
        text = statement(name).decode()
        for old, new in pairs.items():
            assert text.count(old) == 1, f"{name}.sql has no {old!r}, or more than one"
            text = text.replace(old, new)
        changed[name] = text.encode()
    for module in (verbs, rows, transaction):
        _set(module, "statement", lambda name: changed.get(name) or statement(name))


def apply() -> None:
    """Break this process by the variable; do nothing without it."""
    if name := os.environ.get(VARIABLE):
        VARIANTS[name]()


def dask_setup(_worker: object) -> None:
    """Called by Dask in a worker process, after the product's own preload."""
    apply()


if __name__ == "__main__":
    apply()
    sys.exit(broker.main())
