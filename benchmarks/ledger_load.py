"""How long claims and renewals take with a million tasks in the ledger, while two loaders COPY into tables on the same server.

`make bench-ledger`: 64 workers renew their leases, claim, complete and claim again, each on its own two connections; a coordinator's round
runs every second beside them. A table goes to stderr, one JSON object to the last line of
stdout. BENCH_SECONDS= and BENCH_TASKS= for less; PROTHEON_BENCH_URL for a PostgreSQL of one's own, as superuser.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg

from benchmarks import machine
from benchmarks.bench import BENCH_DIR, number, say
from benchmarks.full_ledger import CHUNKS_A_LOAD, LINES_A_CHUNK, Filled, fill
from protheon_dask.ledger import leadership, runs, transaction, verbs
from protheon_dask.ledger.embedded import EmbeddedPostgres
from protheon_dask.ledger.migrate import migrate
from protheon_dask.model import Lease, Lines, Loaded, Seen, StageClock, TableCount, Worker

DATABASE: Final = "protheon_bench_ledger"
N_TASKS: Final = 1_000_000
SECONDS: Final = 120
N_WORKERS: Final = 64
N_LOADERS: Final = 2
N_THREADS: Final = 8
"""Of the measuring process: enough that one slow statement does not hold up the others."""
LEASE_S: Final = 60.0
RENEW_S: Final = 15.0
"""As the product: how many old versions of a row pile up while a COPY goes on decides whether there is room for the next on its page."""
CHUNK_S: Final = 30.0
"""How long a worker has a chunk: with 64 of them, two claims and two completions a second."""
ROWS_A_COPY: Final = 100_000
"""About what a chunk brings: a transaction of seconds, which keeps dead versions of rows from being cleaned away meanwhile."""
TIMEOUTS: Final = transaction.Timeouts(advisory_wait_s=15.0, lock_s=LEASE_S, idle_s=180.0)
GOAL_P99_MS: Final = 50.0
GOAL_HOT: Final = 0.9


@dataclass
class Latencies:
    """Milliseconds of one kind of statement."""

    ms: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self.ms.append((time.perf_counter() - started_s) * 1000)

    def at(self, fraction: float) -> float:
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


class Queue:
    """Ready tasks of the two running runs, each given out once: dispatch, without Dask."""

    def __init__(self, filled: Filled) -> None:
        halves = (
            range(filled.first_ready, filled.first_ready + CHUNKS_A_LOAD // 2),
            range(filled.first_fresh, filled.first_fresh + CHUNKS_A_LOAD),
        )
        self._ids = (task_id for ids in halves for task_id in ids)
        self._lock = threading.Lock()

    def take(self) -> int:
        with self._lock:
            return next(self._ids)


class MadeUpWorker:
    """One worker process's statements: a connection for its leases, one for its data."""

    def __init__(self, url: str, no: int, work: Queue, kinds: dict[str, Latencies]) -> None:
        self._keeper, self._data = (psycopg.connect(url, autocommit=True, prepare_threshold=None) for _ in range(2))
        self._worker = Worker(uuid4(), f"worker-{no}", f"host-{no % 16}")
        self._work, self._kinds = work, kinds
        self._lease: Lease | None = None
        self.renew_at, self.end_at = RENEW_S * no / N_WORKERS, CHUNK_S * no / N_WORKERS  # spread, as processes that started at any time

    def renew(self) -> None:
        if (lease := self._lease) is not None:
            with self._kinds["renew"].timed():
                answer = verbs.renew(self._keeper, [lease], LEASE_S)
            assert answer == {lease: True}

    def next_chunk(self) -> None:
        """Complete the chunk in its data transaction, and claim another."""
        lease, self._lease = self._lease, None
        if lease is not None:
            count = TableCount("public.t", LINES_A_CHUNK, LINES_A_CHUNK, 0, 0)
            with self._kinds["begin"].timed():
                transaction.begin(self._data, lease, TIMEOUTS)
            with self._kinds["complete"].timed():
                verbs.complete(self._data, lease, Loaded(Lines(LINES_A_CHUNK, loaded=LINES_A_CHUNK), (count,)), StageClock())
            with self._kinds["commit"].timed():
                transaction.commit(self._data)
        with self._kinds["claim"].timed():
            claimed = verbs.claim(self._data, Seen(self._work.take(), 0), self._worker, uuid4(), LEASE_S)
        assert claimed is not None, "a ready task was refused"
        self._lease = claimed.lease

    def close(self) -> None:
        self._keeper.close()
        self._data.close()


def coordinator_round(conn: psycopg.Connection, epoch: int, kinds: dict[str, Latencies]) -> None:
    """What a coordinator asks each second."""
    steps: dict[str, Callable[[], object]] = {
        "expire": lambda: verbs.expire(conn, epoch, []),
        "stuck": lambda: verbs.stuck(conn, 30.0),
        "adopt orphans": lambda: runs.adopt_orphans(conn),
        "cancel": lambda: verbs.cancel(conn),
        "pick ready": lambda: verbs.pick_ready(conn, [], 3 * N_WORKERS),
        "finish loads": lambda: runs.finish_loads(conn),
        "open runs": lambda: runs.open_runs(conn),
    }
    for name, step in steps.items():
        with kinds[name].timed():
            step()


KINDS: Final = (
    "claim", "renew", "begin", "complete", "commit", "expire", "stuck", "adopt orphans", "cancel", "pick ready", "finish loads",
    "open runs",
)  # fmt: skip


def measure(url: str, filled: Filled, seconds: int) -> tuple[dict[str, Latencies], float]:
    """Latencies by statement, and the share of renewals that were heap-only."""
    kinds = {kind: Latencies() for kind in KINDS}
    work = Queue(filled)
    workers = [MadeUpWorker(url, no, work, kinds) for no in range(N_WORKERS)]
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn, ThreadPoolExecutor(N_THREADS) as threads:
        lead = leadership.take(conn, uuid4())
        assert lead is not None, "another broker leads in the benchmark's own database"
        before = hot_updates(conn)
        started_s, round_at = time.monotonic(), 0.0
        futures = []
        while (now := time.monotonic() - started_s) < seconds:
            if now >= round_at:
                round_at += 1.0
                futures.append(threads.submit(coordinator_round, conn, lead.epoch, kinds))
            for worker in workers:
                if now >= worker.end_at:  # one after the other: a process has one task thread
                    futures.append(threads.submit(worker.next_chunk))
                    worker.end_at += CHUNK_S
                elif now >= worker.renew_at:
                    futures.append(threads.submit(worker.renew))
                    worker.renew_at += RENEW_S
            for future in futures:
                future.result()
            futures.clear()
            time.sleep(0.001)
        for worker in workers:
            worker.close()
        hot = hot_updates(conn) - before
    return kinds, hot / len(kinds["renew"].ms)


def hot_updates(conn: psycopg.Connection) -> int:
    """Heap-only updates of protheon.task. Of the verbs only a renewal can be one: the others change the state, which is in an index."""
    time.sleep(1.5)  # sessions report what they did at most once a second
    row = conn.execute("SELECT n_tup_hot_upd FROM pg_catalog.pg_stat_user_tables WHERE relid = 'protheon.task'::regclass").fetchone()
    assert row is not None
    return int(row[0])


def load_for_ever(url: str, table: str) -> None:
    """One loader: COPY into a keyed table, a transaction each time, until this process is ended."""
    with psycopg.connect(url) as conn:
        conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, a bigint, b bigint, c double precision, told text)".encode())
        conn.commit()
        first = 0
        while True:
            with conn.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
                for id_ in range(first, first + ROWS_A_COPY):
                    copy.write(f"{id_}\t{id_ * 7}\t{id_ % 97}\t{id_ / 3}\t{'x' * 80}\n")
            conn.commit()
            first += ROWS_A_COPY
            if first >= 20 * ROWS_A_COPY:
                conn.execute(f"TRUNCATE {table}".encode())
                first = 0


@contextmanager
def server() -> Iterator[str]:
    """The PostgreSQL that is named, else the benchmarks' embedded one."""
    if given := os.environ.get("PROTHEON_BENCH_URL"):
        yield given
        return
    with EmbeddedPostgres(BENCH_DIR / "home" / "postgres") as embedded:
        yield embedded.start()


@contextmanager
def own_database(server_url: str) -> Iterator[str]:
    """A database of the benchmark's own, dropped afterwards: the ledger that is measured is nobody's."""
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
        conn.execute(f"CREATE DATABASE {DATABASE}".encode())
        try:
            yield psycopg.conninfo.make_conninfo(server_url, dbname=DATABASE)
        finally:
            conn.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())


def main() -> None:
    n_tasks, seconds = number("BENCH_TASKS", N_TASKS), number("BENCH_SECONDS", SECONDS)
    with server() as server_url, own_database(server_url) as url:
        migrate(url)
        say(f"a ledger of {n_tasks:,} tasks ..")
        with psycopg.connect(url, autocommit=True) as conn:
            filled = fill(conn, n_tasks)
            conn.execute("CHECKPOINT")
        described = machine.describe(url)
        command = [sys.executable, "-m", "benchmarks.ledger_load", url]
        loaders = [subprocess.Popen([*command, f"public.loaded_{no}"], cwd=Path(__file__).parents[1]) for no in range(N_LOADERS)]
        try:
            say(f"{N_WORKERS} workers, {N_LOADERS} loaders, {seconds} s ..")
            kinds, hot = measure(url, filled, seconds)
            assert all(loader.poll() is None for loader in loaders), "a loader ended"
        finally:
            for loader in loaders:
                loader.kill()
                loader.wait()
    say(json.dumps(described))
    say(table(kinds, hot))
    print(json.dumps({**result(kinds, hot), "n_tasks": n_tasks, "seconds": seconds, "machine": described}))


def result(kinds: dict[str, Latencies], hot: float) -> dict[str, object]:
    return {
        "statements": {
            kind: {"n": len(it.ms), "p50_ms": round(it.at(0.5), 2), "p99_ms": round(it.at(0.99), 2), "max_ms": round(max(it.ms), 2)}
            for kind, it in kinds.items()
        },
        "hot_share": round(hot, 4),
        "reached": {"p99": all(kinds[kind].at(0.99) < GOAL_P99_MS for kind in ("claim", "renew")), "hot": hot > GOAL_HOT},
    }


def table(kinds: dict[str, Latencies], hot: float) -> str:
    """The table of docs/benchmarks.md."""
    lines: Sequence[str] = [
        f"| {kind} | {len(it.ms):,} | {it.at(0.5):.1f} | {it.at(0.99):.1f} | {max(it.ms):.1f} |" for kind, it in kinds.items()
    ]
    head = "| statement | times | p50 (ms) | p99 (ms) | longest (ms) |\n|---|---:|---:|---:|---:|"
    return "\n".join([head, *lines, f"{100 * hot:.1f} % of the renewals were heap-only updates"])


if __name__ == "__main__":
    if sys.argv[1:]:
        load_for_ever(*sys.argv[1:3])
    else:
        main()
