"""The table of the seeds: 50 tasks on 4 worker processes, 500 on 8, 1,000 on 16, and how many of them succeeded.

`make seeds`: for each size a cluster of so many worker processes is started on this machine, and the tasks are submitted one by one
through TaskService, each a registered function that writes a row in the transaction that ends it. A task has succeeded if the ledger says
so, its result is right, and its row is there once. A table goes to stderr, one JSON object to the last line of stdout; the exit code is 1
unless all succeeded. SEEDS=1 for the first so many sizes alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psycopg

from benchmarks import machine
from benchmarks.bench import BENCH_DIR, number, say
from benchmarks.ledger_load import own_database, server
from benchmarks.seed_tasks import TABLE, keep_square
from protheon_dask.run import api

SIZES: Final = ((50, 4), (500, 8), (1_000, 16))
"""Tasks and worker processes."""
HANDLER: Final = f"{keep_square.function.__module__}:{keep_square.name}"
END_S: Final = 600.0
"""For the tasks of one size to end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One size. start_s: until all workers had joined; seconds: from the first submission until the last task had ended."""

    n_tasks: int
    n_workers: int
    n_succeeded: int
    start_s: float
    seconds: float

    @property
    def line(self) -> str:
        share, rate = self.n_succeeded / self.n_tasks, self.n_tasks / self.seconds
        return f"| {self.n_tasks:,} | {self.n_workers} | {100 * share:g} % | {self.start_s:.1f} | {self.seconds:.1f} | {rate:.0f} |"


def run(url: str, n_tasks: int, n_workers: int) -> Outcome:
    """Submit the tasks to a cluster of their own, and wait for their ends."""
    ports = dict.fromkeys(("broker_port", "scheduler_port", "dashboard_port", "http_port"), 0)
    effective = api.read_settings({"home": str(BENCH_DIR / "home"), **ports})
    began_s = time.monotonic()
    with api.local(effective, api.resolve_database(effective, url), workers=n_workers, force_own=True) as cluster:
        with psycopg.connect(url) as conn:
            conn.execute(f"DROP TABLE IF EXISTS {TABLE}".encode())
            conn.execute(f"CREATE TABLE {TABLE} (n bigint, square bigint)".encode())
        submitted_s = time.monotonic()
        ids = [cluster.client.submit_task(HANDLER, {"n": n}).task_id for n in range(n_tasks)]
        views = [cluster.client.wait_task(task_id, max(0.0, submitted_s + END_S - time.monotonic())) for task_id in ids]
        seconds = time.monotonic() - submitted_s
    with psycopg.connect(url) as conn:
        rows = Counter(conn.execute(f"SELECT n, square FROM {TABLE}".encode()).fetchall())
    good = [view.state == "succeeded" and json.loads(view.result_json or "{}") == {"square": n * n} for n, view in enumerate(views)]
    n_succeeded = sum(was_good and rows[n, n * n] == 1 for n, was_good in enumerate(good))
    return Outcome(n_tasks, n_workers, n_succeeded, submitted_s - began_s, seconds)


def table(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/benchmarks.md."""
    head = "| tasks | worker processes | succeeded | start (s) | tasks (s) | tasks/s |\n|---:|---:|---:|---:|---:|---:|"
    return "\n".join([head, *(outcome.line for outcome in outcomes)])


def main() -> int:
    """Run each size, and print what came of it."""
    os.chdir(Path(__file__).parents[1])  # workers import the task's module from the directory that they are started in
    outcomes: list[Outcome] = []
    with server() as server_url, own_database(server_url) as url:
        for n_tasks, n_workers in SIZES[: number("SEEDS", len(SIZES))]:
            say(f"{n_tasks:,} tasks on {n_workers} worker processes ..")
            outcomes.append(run(url, n_tasks, n_workers))
        described = machine.describe(url)
    say(json.dumps(described))
    say(table(outcomes))
    print(json.dumps({"seeds": [asdict(outcome) for outcome in outcomes], "machine": described}))
    return 0 if all(outcome.n_succeeded == outcome.n_tasks for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
