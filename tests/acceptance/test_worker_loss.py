"""A worker that is killed or frozen in the middle of a COPY loses nothing and doubles nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.cluster import StartCluster, ask, finish, load, wait_until

N_LINES = 8_000
PIPELINE = '''
import protheon_dask as protheon

T = protheon.Table(name="public.kill", columns=(protheon.Column("n", "bigint"), protheon.Column("text", "text")), provenance=True)

@protheon.pipeline(version="1", tables=[T])
def kill(line: bytes):
    """No key and no rule: a row that is loaded twice shows."""
    return (int(line), "x" * 200)
'''


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    path = tmp_path / "kill_pipeline.py"
    path.write_text(PIPELINE)
    return f"{path}:kill"


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("".join(f"{n}\n" for n in range(N_LINES)))
    return path


@contextmanager
def copies_held_up(url: str) -> Iterator[psycopg.Connection]:
    """Rows cannot be written to the table while this is open: a COPY that has begun waits in the middle."""
    with psycopg.connect(url) as conn:
        conn.execute("LOCK TABLE public.kill IN SHARE MODE")
        yield conn


def copying(url: str) -> list[int]:
    """Client ports of worker connections that are in a COPY."""
    rows = ask(
        url,
        "SELECT client_port FROM pg_stat_activity"
        " WHERE application_name = 'protheon-worker' AND query ILIKE 'COPY%%' AND wait_event_type = 'Lock'",
    )
    return [row[0] for row in rows]


def process_of_port(pids: list[int], port: int) -> int:
    """Which of our worker processes has this client port open."""
    import psutil

    return next(pid for pid in pids if any(c.laddr.port == port for c in psutil.Process(pid).net_connections(kind="tcp") if c.raddr))


def every_number_once(url: str) -> bool:
    return ask(url, "SELECT count(*), count(DISTINCT n), min(n), max(n) FROM public.kill") == [(N_LINES, N_LINES, 0, N_LINES - 1)]


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_copy_loses_and_doubles_nothing(
    start_cluster: StartCluster, pipeline: str, numbers: Path, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute('CREATE TABLE public.kill (n bigint, text text, "_protheon_chunk" bigint)')
    with start_cluster() as cluster:
        with copies_held_up(database):
            run_id = load(cluster, pipeline, numbers, chunk_lines=1_000)
            ports = wait_until(lambda: copying(database))
            victim = process_of_port([pid for _, pid in cluster.worker_pids()], ports[0])
            os.kill(victim, signal.SIGKILL)
        done = finish(cluster, run_id)

        assert (done.state, done.lines, done.loaded) == ("succeeded", N_LINES, N_LINES)
        assert every_number_once(database)
        attempts = ask(database, "SELECT task_id, attempt_no, outcome, cost, message FROM protheon.attempt ORDER BY attempt_no")
        lost = [attempt for attempt in attempts if attempt[2] != "succeeded"]
        assert [attempt[2:] for attempt in lost] == [("crashed", "crash", "the worker process died")]
        assert done.retries == 1
        assert ask(database, "SELECT DISTINCT state FROM protheon.task") == [("succeeded",)]
        wait_until(lambda: not list(Path(cluster.settings.home).glob("workspace/*/*/*.zst")))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGSTOP is POSIX")
def test_a_worker_frozen_in_the_middle_of_a_copy_and_thawed_later_writes_nothing(
    start_cluster: StartCluster, pipeline: str, numbers: Path, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute('CREATE TABLE public.kill (n bigint, text text, "_protheon_chunk" bigint)')
    with start_cluster(lease_s=3, renew_s=1, exit_grace_s=2, stall_s=10) as cluster:
        with copies_held_up(database):
            run_id = load(cluster, pipeline, numbers, chunk_lines=1_000)
            ports = wait_until(lambda: copying(database))
            frozen = process_of_port([pid for _, pid in cluster.worker_pids()], ports[0])
            os.kill(frozen, signal.SIGSTOP)
        try:
            done = finish(cluster, run_id)
        finally:
            with suppress(ProcessLookupError):  # on a busy machine Dask may have found it silent for too long, and ended it
                os.kill(frozen, signal.SIGCONT)
        assert done.state == "succeeded"
        assert every_number_once(database)
        wait_until(lambda: ask(database, "SELECT count(*) FROM protheon.attempt WHERE ended_at IS NULL") == [(0,)])
        expired = ask(database, "SELECT outcome, cost FROM protheon.attempt WHERE outcome <> 'succeeded'")
        assert expired == [("expired", "loss")]
        assert every_number_once(database)


@pytest.mark.slow
def test_the_end_of_the_owner_ends_every_process(start_cluster: StartCluster) -> None:
    import psutil

    before = set(psutil.Process().children(recursive=True))
    with start_cluster() as cluster:
        children = set(psutil.Process().children(recursive=True)) - before
        assert len(cluster.worker_pids()) == 2
    gone, alive = psutil.wait_procs(list(children), timeout=20)
    assert (len(gone), alive) == (len(children), [])
