"""The end of a run whose tables cannot be finished now: it says why, and begins anew after a pause, not at once and for ever."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg

from protheon_dask.run.finishing import TableFinisher
from tests.fixtures.cluster import wait_until
from tests.integration.run.conftest import Bench

INDEXED = """
import protheon_dask as protheon

T = protheon.Table(name="public.numbers", columns=(protheon.Column("n", "bigint"),), indexes=(("n",),))

@protheon.pipeline(version="1", tables=[T])
def numbers(line: bytes):
    return (int(line),)
"""
CANCEL = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'CREATE INDEX%%' AND wait_event_type = 'Lock'
"""


def test_an_index_that_somebody_cancels_is_the_runs_reason_and_begun_anew_after_a_pause(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "indexed.py").write_text(INDEXED)
    bench.submit("1\n", pipeline=f"{tmp_path / 'indexed.py'}:numbers")
    tried = threading.Semaphore(0)
    finisher = TableFinisher(bench.url, tried.release)
    try:
        with psycopg.connect(bench.url) as other:  # whoever is in the way keeps the lock until the end of the block
            other.execute("LOCK TABLE public.numbers IN ROW EXCLUSIVE MODE")
            assert finisher.problems_nowait(bench.run_id) is None
            wait_until(lambda: bench.ask(CANCEL))
            assert tried.acquire(timeout=30)
            state, reason = bench.run_state()
            assert state == "running"
            assert reason is not None
            assert reason.startswith("indexes and foreign keys cannot be made now: PostgreSQL cancelled a statement: ")
            assert reason.endswith("begun anew within 60 s")
            for _ in range(3):  # the first takes the answer; none begins at once
                assert finisher.problems_nowait(bench.run_id) is None
            assert bench.run_id not in finisher._jobs
        wait_until(lambda: finisher.problems_nowait(bench.run_id) == [])
    finally:
        finisher.stop()
    assert len(bench.ask("SELECT FROM pg_indexes WHERE tablename = 'numbers'")) == 1


def test_a_run_that_has_nothing_to_make_does_not_wait_for_the_index_of_another(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "indexed.py").write_text(INDEXED)
    bench.submit("1\n", pipeline=f"{tmp_path / 'indexed.py'}:numbers")
    first = bench.run_id
    bench.submit("2\n")
    finisher = TableFinisher(bench.url, lambda: None)
    try:
        with psycopg.connect(bench.url) as other:
            other.execute("LOCK TABLE public.numbers IN ROW EXCLUSIVE MODE")
            assert finisher.problems_nowait(first) is None
            wait_until(
                lambda: (
                    "waits for a lock of session" in (bench.ask("SELECT state_reason FROM protheon.run WHERE id = %s", first)[0][0] or "")
                )
            )
            wait_until(lambda: finisher.problems_nowait(bench.run_id) == [])
            assert finisher.problems_nowait(first) is None
        wait_until(lambda: finisher.problems_nowait(first) == [])
    finally:
        finisher.stop()
