"""The ledger's statements keep to their indexes when the ledger is large, and renewals stay heap-only."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from benchmarks.full_ledger import Filled, fill
from protheon_dask.ledger import leadership, verbs
from protheon_dask.ledger.statements import statement
from protheon_dask.model import STAGES, Lease, Seen, Worker
from protheon_dask.run.story import story_of
from protheon_dask.telemetry.story import BINS, MAX_SPANS
from tests.fixtures.postgres import fresh_database

N_TASKS = 200_000
N_RUNNING = 64
WORKER = Worker(uuid4(), "w", "h")
JUST_NOW = datetime.now(UTC) + timedelta(hours=1)
"""After the loads of the filled ledger were finished."""
LARGE = {"task", "attempt", "chunk", "table_count"}
"""Tables with a row a chunk or more."""
STORY = ("story_run", "story_bins", "story_stages", "story_spans", "story_processes")
"""Without story_rows and story_files, which sum over all tasks of a run: where these are many of the ledger's, reading all is right."""


class Full:
    """A ledger with many finished tasks, many ready ones, and a cluster's worth of running ones."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        lead = leadership.take(conn, uuid4())
        assert lead is not None
        self.epoch, self.filled = lead.epoch, fill(conn, N_TASKS)
        self.running = range(self.filled.first_ready, self.filled.first_ready + N_RUNNING)
        for task_id in self.running:
            assert verbs.claim(conn, Seen(task_id, 0), WORKER, uuid4(), 60.0) is not None

    def plan_of(self, name: str, params: dict[str, Any]) -> str:
        with self.conn.transaction(force_rollback=True):
            rows = self.conn.execute(b"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + statement(name), params).fetchall()
        return "\n".join(row[0] for row in rows)


@pytest.fixture(scope="module")
def full(postgres_url: str, ledger_template: str) -> Iterator[Full]:
    with fresh_database(postgres_url, ledger_template) as url, psycopg.connect(url, autocommit=True) as conn:
        yield Full(conn)


def params_of(full: Full) -> dict[str, dict[str, Any]]:
    """What each statement is asked that somebody waits for, or that is asked every second."""
    at: Filled = full.filled
    one, all_running = {"task_id": full.running[0], "attempt_no": 1}, list(full.running)
    pairs = {"task_ids": all_running, "attempt_nos": [1] * N_RUNNING}
    seconds = {f"{stage}_s": 0.0 for stage in STAGES}
    ending = {
        **one, **seconds, "outcome": "failed", "cost": "failure", "error_class": "E", "message": "m", "traceback": None, "sqlstate": None,
    }  # fmt: skip
    claim = {
        "task_id": full.running[-1] + 1, "attempt_no": 0, "token": uuid4(), "lease_s": 60.0, "process_uuid": uuid4(),
        "worker": "w", "host": "h",
    }  # fmt: skip
    counts = dict.fromkeys(("loaded", "filtered", "rejected", "blank", "rejected_parts", "raw_bytes", "wire_bytes"), 0)
    manifest = dict.fromkeys(
        ("byte_offset", "raw_bytes", "restart_stored_offset", "restart_raw_offset", "stored_bytes", "n_lines", "restart_line"), 1
    ) | {"raw_xxh3": b"r" * 16, "stored_xxh3": b"s" * 16, "generation": 2, "oversized": False}
    lead = {"epoch": full.epoch}
    story = {"bin_s": 1.0, "n_bins": 120, "limit": 50}
    return {
        "claim": claim,
        "renew": {**pairs, "lease_s": 60.0},
        "fence": one,
        "complete": {**one, **seconds, **counts, "loaded": 50_000, "result": None},
        "count_rows": {
            **one, **{name: [1] for name in ("offered", "inserted", "checksums", "compared")}, "table_names": ["public.t"], "updated": [0],
            "ignored": [0],
        },
        "note_commit": {**one, "ledger_s": 0.0, "commit_s": 0.0},
        "resolve": one,
        "spent": one,
        "release": {**ending, "ready_in_s": 0.0},
        "dead_letter": {**ending, "reason": "r"},
        "expire": {**lead, "task_ids": all_running[:1], "attempt_nos": [1]},
        "stuck": {"grace_s": 30.0},
        "holder_of": one,
        "give_back": {**lead, **pairs, "costs": ["loss"]},
        "pick_ready": {"left_out": all_running, "n": 3 * N_RUNNING},
        "look_tasks": {"task_ids": all_running},
        "cancel": {},
        "replay": {"load_id": at.half_load, "task_ids": []},
        "purge": {"task_ids": all_running},
        "enqueue": {**lead, **manifest, "load_id": at.half_load, "state": "ready", "chunk_no": 10**6, "first_line": 10**12},
        "restored": {**lead, **manifest, "load_id": at.half_load, "first_line": 1},
        "locate_chunk": one,
        "find_chunk": {"task_id": None, "load_id": at.half_load, "line": 1},
        "known_chunks": {"task_ids": all_running},
        "stored_chunks": {"load_id": None},
        "pending_loads": {},
        "idle_loads": {"load_ids": [at.half_load, at.fresh_load]},
        "orphaned_loads": {},
        "finish_loads": {},
        "open_runs": {},
        "count_lines": {"run_id": at.running_run},
        "run_statistics": {"run_id": at.running_run},
        **{name: {"run_id": at.running_run, **story} for name in STORY},
        "picture_loads": {"known": [at.half_load], "since": JUST_NOW},
        "picture_ledger": {},
        "picture_tasks": {},
        "picture_runs": {"newest": 20, "live": 50},
        "add_wire_bytes": {**one, "n_bytes": 1},
        "hand_over_loads": {"run_id": at.fresh_run},
        "pause_run": {**one, "run_id": at.running_run, "reason": "r"},
        "ephemeral_attempts": {"with_tasks": True},
        "report_tasks": {"task_ids": all_running, "only_ended": True},
        "task_of_request": {
            "request_id": "r", "handler": "h", "payload": "1", "priority": 0, "visibility_s": None, "max_failures": None,
        },
        "cancel_task": one,
        "end_cancelled": {"task_ids": all_running, "message": "m"},
        "find_load": {"source_id": 1, "pipeline_name": "p", "pipeline_version": "1", "options": "{}"},
    }  # fmt: skip


INDEXES = {
    "claim": "task_pkey", "expire": "task_running", "stuck": "task_running", "pick_ready": "task_ready", "renew": "task_",
    "cancel": "task_load", "finish_loads": "task_load", "open_runs": "task_load", "stored_chunks": "task_load", "count_lines": "task_load",
    "complete": "task_", "find_chunk": "chunk_load_id_first_line_key", **dict.fromkeys(STORY, "attempt_run"),
    "ephemeral_attempts": "attempt_open", "report_tasks": "task_pkey", "task_of_request": "task_request", "cancel_task": "task_pkey",
}  # fmt: skip


def test_no_statement_reads_all_tasks_attempts_or_chunks(full: Full) -> None:
    read = {}
    for name, params in params_of(full).items():
        plan = full.plan_of(name, {"now": None, **params})
        if scanned := LARGE & set(re.findall(r"Seq Scan on (\w+)", plan)):
            read[name] = scanned, plan
        assert INDEXES.get(name, "") in plan, plan
    assert read == {}


@pytest.mark.slow
def test_the_story_of_a_run_with_very_many_attempts_is_bounded(full: Full) -> None:
    """170,000 attempts: 14 s on two cores with much else to do, most of it for sums over all of them."""
    with full.conn.transaction(force_rollback=True):
        full.conn.execute("UPDATE protheon.run SET submitted_at = now() - interval '3 hours'")
        full.conn.execute(
            "UPDATE protheon.attempt SET started_at = now() - interval '3 hours' + task_id * interval '0.05 s',"
            " ended_at = now() - interval '3 hours' + task_id * interval '0.05 s' + interval '9 s', copy_s = 5 WHERE outcome = 'succeeded'"
        )
        [(largest,)] = full.conn.execute("SELECT run_id FROM protheon.attempt GROUP BY run_id ORDER BY count(*) DESC LIMIT 1").fetchall()
        began_s = time.monotonic()
        story = story_of(full.conn, largest)
        took_s = time.monotonic() - began_s
    assert (story.n_attempts, len(story.spans), len(story.bins)) == (N_TASKS - 30_000, MAX_SPANS, BINS)
    assert sum(piece.lines for piece in story.bins) == story.statistics.lines
    assert len(json.dumps(story.to_json())) < 4e6
    assert took_s < 90


def test_loads_that_are_at_work_are_not_added_up_every_second(full: Full) -> None:
    """Two loads with 10,000 chunks each are at work: only one task of each is looked at."""
    plan = full.plan_of("finish_loads", {"now": None})
    assert max(map(int, re.findall(r"actual rows=(\d+)", plan))) < 100, plan


def test_a_picture_adds_up_only_loads_that_are_at_work(full: Full) -> None:
    """Two loads of 10,000 chunks are at work, seventeen are finished."""
    plan = full.plan_of("picture_loads", {"known": [], "since": JUST_NOW})
    assert max(int(rows) * int(loops) for rows, loops in re.findall(r"actual rows=(\d+)[.\d]* loops=(\d+)", plan)) < 25_000, plan


def test_the_check_of_plans_sees_a_table_that_is_read(full: Full) -> None:
    plan = "\n".join(row[0] for row in full.conn.execute("EXPLAIN SELECT FROM protheon.task WHERE created_at > now()").fetchall())
    assert "Seq Scan on task" in plan


def test_renewals_are_heap_only_updates(full: Full) -> None:
    leases = [Lease(task_id, 1, 60.0) for task_id in full.running]
    before = updates(full.conn)
    for _ in range(20):
        assert set(verbs.renew(full.conn, leases, 60.0).values()) == {True}
    all_updates, heap_only = (now - then for now, then in zip(updates(full.conn), before, strict=True))
    assert all_updates == 20 * N_RUNNING
    assert heap_only > 0.9 * all_updates


def updates(conn: psycopg.Connection) -> tuple[int, int]:
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT 1")
    row = conn.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'protheon.task'::regclass").fetchone()
    assert row is not None
    return row
