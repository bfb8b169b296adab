"""The hot verbs keep to their indexes when the ledger is large, and renewals stay heap-only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.ledger import leadership, verbs
from protheon_dask.ledger.statements import statement
from protheon_dask.model import Lease, Seen, Worker

N_TASKS = 20_000
N_RUNNING = 64


@pytest.fixture
def conn(ledger_database: str) -> Iterator[psycopg.Connection]:
    """A ledger with many finished tasks, many ready ones, and a cluster's worth of running ones."""
    with psycopg.connect(ledger_database, autocommit=True) as conn:
        assert leadership.take(conn, uuid4()) is not None
        conn.execute(
            "INSERT INTO protheon.task (handler, state, attempt_no, ready_at)"
            " SELECT 'other', CASE WHEN n %% 2 = 0 THEN 'succeeded' ELSE 'ready' END, n %% 2, now() - interval '1 hour'"
            " FROM generate_series(1, %s) AS n",
            (N_TASKS,),
        )
        conn.execute("VACUUM ANALYZE protheon.task")
        worker = Worker(uuid4(), "w", "h")
        for task_id in range(1, 2 * N_RUNNING, 2):
            assert verbs.claim(conn, Seen(task_id, 1), worker, uuid4(), 60.0) is not None
        yield conn


def plan_of(conn: psycopg.Connection, name: str, params: dict[str, Any]) -> str:
    with conn.transaction(force_rollback=True):
        rows = conn.execute(b"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + statement(name), params).fetchall()
    return "\n".join(row[0] for row in rows)


CLAIM = {
    "task_id": N_TASKS - 1,
    "attempt_no": 1,
    "token": uuid4(),
    "lease_s": 60.0,
    "process_uuid": uuid4(),
    "worker": "w",
    "host": "h",
    "now": None,
}
PAIRS = {"task_ids": list(range(1, 2 * N_RUNNING, 2)), "attempt_nos": [2] * N_RUNNING, "now": None}


@pytest.mark.parametrize(
    ("name", "params", "index"),
    [
        ("claim", CLAIM, "task_pkey"),
        ("expire", {"epoch": 1, "task_ids": [], "attempt_nos": [], "now": None}, "task_running"),
        ("stuck", {"grace_s": 30.0, "now": None}, "task_running"),
        ("pick_ready", {"left_out": [], "n": 6, "now": None}, "task_ready"),
        ("renew", {**PAIRS, "lease_s": 60.0}, "task_"),
    ],
)
def test_a_hot_statement_reads_its_index_and_never_the_whole_queue(
    conn: psycopg.Connection, name: str, params: dict[str, Any], index: str
) -> None:
    plan = plan_of(conn, name, params)
    assert index in plan
    assert "Seq Scan on task" not in plan, plan


def test_renewals_are_heap_only_updates(conn: psycopg.Connection) -> None:
    leases = [Lease(task_id, 2, 60.0) for task_id in PAIRS["task_ids"]]
    before = updates(conn)
    for _ in range(20):
        assert set(verbs.renew(conn, leases, 60.0).values()) == {True}
    all_updates, heap_only = (now - then for now, then in zip(updates(conn), before, strict=True))
    assert all_updates == 20 * N_RUNNING
    assert heap_only > 0.9 * all_updates


def updates(conn: psycopg.Connection) -> tuple[int, int]:
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT 1")
    row = conn.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'protheon.task'::regclass").fetchone()
    assert row is not None
    return row
