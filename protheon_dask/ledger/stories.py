"""What a run's story is told from. Rows are dictionaries with the ledger's column names; nothing here writes.

A run's own attempts are those that were claimed for it: what another run had loaded of its files before is no part of its story.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from protheon_dask.ledger.rows import rows

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


@contextmanager
def snapshot(conn: psycopg.Connection) -> Iterator[None]:
    """All that is read in the block is of one moment. In a transaction of the caller's it is as that one reads."""
    is_first = conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    with conn.transaction():
        if is_first:
            conn.execute(SNAPSHOT)
        yield


def run_facts(conn: psycopg.Connection, run_id: int) -> dict[str, Any] | None:
    """When a run was submitted and ended, how it was set, and who made its attempts; None: there is no such run."""
    found = rows(conn, "story_run", {"run_id": run_id})
    return found[0] if found else None


def pieces(conn: psycopg.Connection, run_id: int, bin_s: float, n_bins: int) -> dict[int, dict[str, Any]]:
    """What happened in each piece of bin_s seconds since the run was submitted, by its number from 0; where nothing did there is none."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for name in ("story_bins", "story_rows", "story_stages"):
        for row in rows(conn, name, {"run_id": run_id, "bin_s": bin_s, "n_bins": n_bins}):
            found[row.pop("bin_no")].update(row)
    return dict(found)


def spans(conn: psycopg.Connection, run_id: int, limit: int) -> list[dict[str, Any]]:
    """The run's attempts in order of their start; of more than limit those without effect first, and evenly chosen ones."""
    return list(rows(conn, "story_spans", {"run_id": run_id, "limit": limit}))


def processes(conn: psycopg.Connection, run_id: int, limit: int) -> list[dict[str, Any]]:
    """From when to when each worker process was at the run, and for how much of that it had one of its chunks."""
    return list(rows(conn, "story_processes", {"run_id": run_id, "limit": limit}))


def files(conn: psycopg.Connection, run_id: int, limit: int) -> list[dict[str, Any]]:
    """The run's files, those first that need a person."""
    return list(rows(conn, "story_files", {"run_id": run_id, "limit": limit}))
