"""What telemetry costs: the scheduler with 500 workers, and a run on this machine.

`make bench-telemetry`: 500 real Dask workers, many to a process, tell with a heartbeat every 2 s what ours tell, the broker's side asks for
that every 2 s and sends a picture of all of them every second; the CPU time of the scheduler is compared with that of the same workers
without any of it. Then two workers load the pgcr sample, and the CPU seconds of everything that telemetry does are set against those of all
processes. A table goes to stderr, one JSON object to the last line of stdout. BENCH_WORKERS=, BENCH_SECONDS=, BENCH_LINES= for less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psutil
import psycopg

from benchmarks import material, product, target
from benchmarks.bench import BENCH_DIR, WARM_LINES, number, say
from benchmarks.ledger_load import own_database, server
from protheon_dask.ledger.migrate import migrate
from protheon_dask.model import STAGES, StageClock
from protheon_dask.run import api
from protheon_dask.run.dask_link import DaskLink
from protheon_dask.run.doing import METRIC, Doing
from protheon_dask.run.taking import APPLICATION, Taker
from protheon_dask.telemetry.board import Board, picture_from, to_bytes
from protheon_dask.telemetry.picture import ClusterPicture
from protheon_dask.workspace.chunkfile import ChunkStore

N_WORKERS: Final = 500
A_PROCESS: Final = 125
"""Workers that one process holds: their own cost is not measured, and they must keep their time."""
SAMPLES_S: Final = 2.0
SECONDS: Final = 40
N_LINES: Final = 100_000
BATCHES_A_CHUNK_STAGES: Final = 4
"""Stages that a batch enters: decompress, transform, copy, and the ledger's where lines are refused."""
GOAL_SCHEDULER, GOAL_RUN = 0.05, 0.01


@dataclass
class Led:
    """What a picture asks of a coordinator: here all is always well with it."""

    dask: DaskLink
    ledger_lost_at: float | None = None
    waiting_for: str | None = None

    @property
    def round_at(self) -> float:
        return time.time()


@contextmanager
def pictures(url: str, scheduler: str) -> Iterator[Taker]:
    """Take pictures as a broker does."""
    link = DaskLink(scheduler, lambda _: None)
    with ExitStack() as stack:
        stack.callback(link.close)
        while True:
            try:
                link.workers()
                break
            except OSError:
                time.sleep(0.1)
        store = ChunkStore(BENCH_DIR / "telemetry-workspace", 1 << 30)
        yield stack.enter_context(Taker(url, Led(link), store, owns_scheduler=True))


# --- many workers ---------------------------------------------------------------------------------------------------------


async def hold_fleet(scheduler: str, n: int, name: str) -> None:
    """Hold n workers that send a heartbeat every SAMPLES_S, and tell of themselves from the first line of standard input on."""
    from distributed import Worker

    workers = [await Worker(scheduler, nthreads=1, name=f"{name}-{no}", dashboard=False) for no in range(n)]
    for worker in workers:
        worker.periodic_callbacks["heartbeat"].stop()

    async def beat(worker: Worker, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            began_s = time.monotonic()
            await worker.heartbeat()
            await asyncio.sleep(max(0.0, SAMPLES_S - (time.monotonic() - began_s)))

    beats = [asyncio.create_task(beat(worker, SAMPLES_S * no / n)) for no, worker in enumerate(workers)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for no, worker in enumerate(workers):
        worker.metrics[METRIC] = _busy(no)
    await asyncio.gather(*beats)


def _busy(no: int) -> Callable[[Any], dict[str, Any]]:
    """What a worker tells in the middle of a chunk, with sums of some hours."""
    doing = Doing(time.perf_counter, 8)
    clock = StageClock(dict.fromkeys(STAGES, 3_600.0 / 7), 10**12 // 3, 10**11 // 3, 10**9 // 3, 10**10 // 3)
    at_work = doing.at_work(10**6 + no, 1_000, clock, time.perf_counter())
    at_work.__enter__()
    clock.enter("copy", time.perf_counter())

    def told(_worker: Any, _kept: object = at_work) -> dict[str, Any]:
        return doing.told()

    return told


@contextmanager
def scheduler_process() -> Iterator[tuple[psutil.Process, str]]:
    command = f"{sys.executable} -m distributed.cli.dask_scheduler --host 127.0.0.1 --port 0 --dashboard-address 127.0.0.1:0"
    process = subprocess.Popen([*command.split(), "--preload", "protheon_dask.run.preload_scheduler"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = next(found[1] for line in process.stderr if (found := re.search(r"Scheduler at:\s+(tcp://\S+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # an unread pipe would fill
        yield psutil.Process(process.pid), address
    finally:
        process.terminate()
        process.wait()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def many_workers(url: str, n_workers: int, seconds: float) -> dict[str, float]:
    """Shares of a core that the scheduler takes: with heartbeats alone, and with all of telemetry."""
    with scheduler_process() as (scheduler, address), ExitStack() as stack:
        fleets = []
        for first in range(0, n_workers, A_PROCESS):
            command = [
                sys.executable,
                "-m",
                "benchmarks.telemetry_cost",
                "--fleet",
                address,
                str(min(A_PROCESS, n_workers - first)),
                f"f{first}",
            ]
            fleet = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            stack.callback(fleet.wait)
            stack.callback(fleet.kill)
            fleets.append(fleet)
        for fleet in fleets:
            assert fleet.stdout is not None
            assert fleet.stdout.readline() == "ready\n"
        without = share_of_a_core(scheduler, seconds)
        for fleet in fleets:
            assert fleet.stdin is not None
            fleet.stdin.write("tell\n")
            fleet.stdin.flush()
        with pictures(url, address) as taker:
            end_at = time.monotonic() + 60
            while (latest := taker.latest()) is None or sum(it.status == "busy" for it in latest.workers) < n_workers:
                assert time.monotonic() < end_at, "the workers have not told of themselves within a minute"
                time.sleep(0.5)
            with_it = share_of_a_core(scheduler, seconds)
            size_bytes = len(to_bytes(latest))
    return {"without": without, "with": with_it, "telemetry": with_it - without, "picture_bytes": size_bytes}


def share_of_a_core(process: psutil.Process, seconds: float) -> float:
    before, began_s = cpu_s(process), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(process) - before) / (time.monotonic() - began_s)


# --- a run ----------------------------------------------------------------------------------------------------------------


def take_beside(url: str, scheduler: str) -> None:
    """Take pictures in this process until standard input ends; then print what that took, and the last picture's size."""
    with pictures(url, scheduler) as taker:
        began_s = time.process_time()
        print("ready", flush=True)
        sys.stdin.read()
        took_s = time.process_time() - began_s
        latest = taker.latest()
    print(json.dumps({"cpu_s": took_s, "picture": "" if latest is None else to_bytes(latest).decode()}), flush=True)


def a_run(n_lines: int) -> dict[str, float]:
    """CPU seconds of a run of two workers, and of its telemetry: the parts that can be told apart are measured, or timed alone.

    The broker's part is that of a second taker in a process of its own, with a client of the scheduler's that the broker has anyway.
    """
    sample, warm = (material.make_sample(BENCH_DIR, n) for n in (n_lines, WARM_LINES))
    ports = dict.fromkeys(("broker_port", "scheduler_port", "dashboard_port", "http_port"), 0)
    effective = api.read_settings({"home": str(BENCH_DIR / "home"), **ports})
    with api.local(effective, api.resolve_database(effective, None, embedded=True), workers=2, force_own=True) as cluster:
        target.remake(cluster.url)
        product.load(cluster, warm.path)
        target.remake(cluster.url)
        command = [sys.executable, "-m", "benchmarks.telemetry_cost", "--take", cluster.url, cluster.client.info().scheduler_address]
        beside = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert beside.stdout is not None
        assert beside.stdout.readline() == "ready\n"
        postmaster = psutil.Process(_postmaster(cluster.url))
        parts = [psutil.Process(process.process.pid) for process in cluster._processes.values()]
        before_s = tree_s([*parts, postmaster])
        before_backends_s = backends_s(cluster.url)
        seconds = product.load(cluster, sample.path).seconds
        total_s, looking_s = tree_s([*parts, postmaster]) - before_s, (backends_s(cluster.url) - before_backends_s) / 2  # of two takers
        answer, _ = beside.communicate("")
    told = json.loads(answer.splitlines()[-1])
    drawn_s = seconds * timed(lambda: taken(told["picture"].encode()))
    workers_s = seconds * 2 * 2 * timed(_busy(0), None) + BATCHES_A_CHUNK_STAGES * (n_lines / 1_000) * timed(entered)
    parts_s = {"broker": told["cpu_s"], "database": looking_s, "scheduler": drawn_s, "workers": workers_s}
    return {"seconds": seconds, "run_cpu_s": total_s - sum(parts_s.values()), **parts_s, "share": sum(parts_s.values()) / total_s}


def _postmaster(url: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
        assert row is not None
        return psutil.Process(row[0]).ppid()


def tree_s(roots: list[psutil.Process]) -> float:
    """CPU seconds of processes and all that came from them, those that have ended included."""
    total = 0.0
    for process in [it for root in roots for it in (root, *root.children(recursive=True))]:
        try:
            total += sum(process.cpu_times()[:4])  # its own, and of children that it has waited for
        except psutil.NoSuchProcess:
            continue
    return total


def backends_s(url: str) -> float:
    with psycopg.connect(url) as conn:
        pids = conn.execute("SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = %s", (APPLICATION,)).fetchall()
    return sum(cpu_s(psutil.Process(pid)) for (pid,) in pids)


def taken(told: bytes) -> ClusterPicture:
    """What the scheduler's plugin does with a picture."""
    picture = picture_from(told)
    _board.take(picture)
    return picture


def entered() -> None:
    _clock.enter("copy", time.perf_counter())


_board, _clock = Board(time.monotonic), StageClock()


def timed(action: Callable[..., object], *args: object, n: int = 2_000) -> float:
    """CPU seconds of one call."""
    began_s = time.process_time()
    for _ in range(n):
        action(*args)
    return (time.process_time() - began_s) / n


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fleet", nargs=3)
    parser.add_argument("--take", nargs=2)
    given = parser.parse_args()
    if given.fleet:
        asyncio.run(hold_fleet(given.fleet[0], int(given.fleet[1]), given.fleet[2]))
        return
    if given.take:
        take_beside(*given.take)
        return
    n_workers, seconds = number("BENCH_WORKERS", N_WORKERS), number("BENCH_SECONDS", SECONDS)
    with server() as server_url, own_database(server_url) as url:
        migrate(url)
        many = many_workers(url, n_workers, seconds)
    shares = f"{many['without']:.1%} of a core without telemetry, {many['with']:.1%} with it: {many['telemetry']:.1%}"
    say(f"scheduler, {n_workers} workers: {shares}")
    run = a_run(number("BENCH_LINES", N_LINES))
    parts = ", ".join(f"{name} {run[name]:.2f}" for name in ("broker", "database", "scheduler", "workers"))
    say(f"run of {run['seconds']:.1f} s, {run['run_cpu_s']:.1f} CPU s without telemetry; telemetry: {parts}: {run['share']:.2%}")
    goals = {"scheduler": many["telemetry"] < GOAL_SCHEDULER, "run": run["share"] < GOAL_RUN}
    print(json.dumps({"scheduler": many, "run": run, "goals_met": goals}))


if __name__ == "__main__":
    main()
