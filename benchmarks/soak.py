"""One hundred thousand small chunks: what broker and scheduler take of CPU for a chunk at the end, against the beginning, and of memory.

`make soak`: a real scheduler, a real broker and PostgreSQL; the workers are simulated: many Dask workers in one process, which claim and
complete each chunk in the ledger and load nothing (benchmarks/soak_fleet.py). The chunks, one line each, are all cut before the first is
claimed. For every 200th part of them the CPU seconds of both processes are read; each tenth of the run has the median of its own. The
goals: the last tenth's median is within 1.2 times the first one's, and the memory of neither grows beyond 1.25 times what it was after the
second tenth. Both processes have work that goes by the second, so the machine must have no other work meanwhile: a slower run costs more a
chunk. A table goes to stderr, one JSON object to the last line of stdout; the exit code is 1 if a goal was missed. SOAK_CHUNKS= for less,
SOAK_WORKERS= for another number of workers.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import psutil
import psycopg

from benchmarks import machine
from benchmarks.bench import BENCH_DIR, number, say
from benchmarks.ledger_load import own_database, server
from benchmarks.telemetry_cost import cpu_s
from protheon_dask.config import environment
from protheon_dask.ledger.migrate import migrate
from protheon_dask.pipelines.find import find
from protheon_dask.run import api
from protheon_dask.run import settings as rim
from protheon_dask.run.master import Master
from protheon_dask.run.parts import DASK_CONFIG, LOOPBACK, Places, Site
from protheon_dask.run.supervise import Supervised
from protheon_dask.run.trust.keys import make_key, read_key

N_CHUNKS: Final = 100_000
N_WORKERS: Final = 16
TENTHS, WINDOWS = 10, 200
"""Medians of the curve, and readings at most."""
GOAL_CPU, GOAL_MEMORY = 1.2, 1.25
READY_S: Final = 120.0
POLL_S: Final = 0.5
QUOTA_BYTES: Final = 8 << 30
"""Of the workspace: all chunks at once, each a small file."""
HEADS: Final = ("chunks", "broker (ms)", "scheduler (ms)", "database (ms)", "broker (MB)", "scheduler (MB)", "chunks/s")


@dataclass(frozen=True, slots=True)
class Reading:
    """What had been used when so many chunks were done. database_s: of all its backends, those that have ended included."""

    n_chunks: int
    at_s: float
    broker_s: float
    scheduler_s: float
    database_s: float
    broker_bytes: int
    scheduler_bytes: int


@dataclass(frozen=True, slots=True)
class Tenth:
    """Medians of CPU seconds for a chunk, the memory at the end, and chunks a second."""

    n_chunks: int
    broker_s: float
    scheduler_s: float
    database_s: float
    broker_bytes: int
    scheduler_bytes: int
    rate: float

    @property
    def cpu_s(self) -> float:
        """Of broker and scheduler."""
        return self.broker_s + self.scheduler_s

    @property
    def line(self) -> str:
        milliseconds = (f"{1000 * value:.2f}" for value in (self.broker_s, self.scheduler_s, self.database_s))
        megabytes = (f"{value / 1e6:.0f}" for value in (self.broker_bytes, self.scheduler_bytes))
        return f"| {' | '.join([f'{self.n_chunks:,}', *milliseconds, *megabytes, f'{self.rate:.0f}'])} |"


def free_ports(n: int) -> list[int]:
    """Ports of loopback that were free a moment ago, each another."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def master_of(url: str, home: Path) -> Iterator[tuple[Master, Site, Mapping[str, psutil.Process]]]:
    """A scheduler and a broker as `protheon master` runs them, on loopback."""
    home.mkdir(parents=True, exist_ok=True)
    effective = api.read_settings({"home": str(home), "workspace_quota_bytes": QUOTA_BYTES, "tls_dir": ""})
    settings = replace(effective.settings, database_url=url, direct_url="")
    names = ("broker_port", "scheduler_port", "dashboard_port", "http_port")
    places = Places(**dict(zip(names, free_ports(len(names)), strict=True)))  # type: ignore[arg-type]  # its ports alone
    env = {**rim.environment(), **DASK_CONFIG, **environment(settings), "PROTHEON_KEY_FILE": str(make_key(home))}
    site = Site(home, settings, env, places)
    with Supervised(site.scheduler()) as scheduler, Supervised(site.broker(ephemeral=False, takes_over=True)) as broker:
        broker.first_line(READY_S)
        processes = {part.part.name: psutil.Process(part.process.pid).children()[0] for part in (scheduler, broker)}
        with Master(places.broker_address, read_key(env["PROTHEON_KEY_FILE"])) as master:
            yield master, site, processes


@contextmanager
def fleet_of(scheduler: str, url: str, n_workers: int, log: Path) -> Iterator[None]:
    """The simulated workers, all in one process."""
    command = [sys.executable, "-m", "benchmarks.soak_fleet", scheduler, str(n_workers), "simulated"]
    root, env = Path(__file__).parents[1], {**rim.environment(), **DASK_CONFIG}
    with (
        log.open("w") as said,
        subprocess.Popen(command, cwd=root, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as fleet,
    ):
        assert fleet.stdin is not None
        assert fleet.stdout is not None
        try:
            fleet.stdin.write(f"{url}\n")
            fleet.stdin.flush()
            assert fleet.stdout.readline() == "ready\n", f"the simulated workers could not join: see {log}"
            yield
        finally:
            fleet.stdin.close()


def database_s(postmaster: psutil.Process) -> float:
    """CPU seconds of PostgreSQL, in all its processes."""
    total = 0.0
    for process in (postmaster, *postmaster.children()):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + (times.children_user + times.children_system if process is postmaster else 0.0)
    return total


def read_until_the_end(url: str, n_chunks: int, processes: Mapping[str, psutil.Process], postmaster: psutil.Process) -> list[Reading]:
    """A reading whenever another WINDOWS-th part of the chunks is done."""
    readings: list[Reading] = []
    broker, scheduler = processes["broker"], processes["scheduler"]
    with psycopg.connect(url, autocommit=True) as conn:
        while not readings or readings[-1].n_chunks < n_chunks:
            row = conn.execute("SELECT count(*) FROM protheon.task WHERE state = 'succeeded'").fetchone()
            assert row is not None
            if not readings or (row[0] - readings[-1].n_chunks) * WINDOWS >= n_chunks or row[0] >= n_chunks:
                readings.append(
                    Reading(
                        n_chunks=row[0],
                        at_s=time.monotonic(),
                        broker_s=cpu_s(broker),
                        scheduler_s=cpu_s(scheduler),
                        database_s=database_s(postmaster),
                        broker_bytes=broker.memory_info().rss,
                        scheduler_bytes=scheduler.memory_info().rss,
                    )
                )
            time.sleep(POLL_S)
    return readings


def tenths_of(readings: Sequence[Reading], n_chunks: int) -> list[Tenth]:
    """The curve: each tenth of the chunks with the medians of its windows."""
    windows = list(pairwise(readings))
    tenths: list[Tenth] = []
    for no in range(TENTHS):
        low, high = no * n_chunks / TENTHS, (no + 1) * n_chunks / TENTHS
        mine = [(a, b) for a, b in windows if low < b.n_chunks <= high]
        assert mine, f"no reading in the chunks {low:.0f} to {high:.0f}: take more of them (SOAK_CHUNKS)"

        def of_a_chunk(name: str, mine: Sequence[tuple[Reading, Reading]] = mine) -> float:
            return float(median((getattr(b, name) - getattr(a, name)) / (b.n_chunks - a.n_chunks) for a, b in mine))

        last = mine[-1][1]
        tenths.append(
            Tenth(
                n_chunks=last.n_chunks,
                broker_s=of_a_chunk("broker_s"),
                scheduler_s=of_a_chunk("scheduler_s"),
                database_s=of_a_chunk("database_s"),
                broker_bytes=last.broker_bytes,
                scheduler_bytes=last.scheduler_bytes,
                rate=1 / of_a_chunk("at_s"),
            )
        )
    return tenths


def goals_of(tenths: Sequence[Tenth]) -> dict[str, float]:
    """By what factor each has grown: CPU from the first tenth to the last, memory from the second on."""
    return {
        "cpu": tenths[-1].cpu_s / tenths[0].cpu_s,
        "broker_memory": max(tenth.broker_bytes for tenth in tenths) / tenths[1].broker_bytes,
        "scheduler_memory": max(tenth.scheduler_bytes for tenth in tenths) / tenths[1].scheduler_bytes,
    }


def wait_cut(url: str, run_id: int, n_chunks: int) -> None:
    """Wait until the ledger has every chunk."""
    with psycopg.connect(url, autocommit=True) as conn:
        while True:
            row = conn.execute(
                "SELECT count(*) FROM protheon.chunk JOIN protheon.run_load USING (load_id) WHERE run_id = %s", (run_id,)
            ).fetchone()
            assert row is not None
            if row[0] >= n_chunks:
                return
            time.sleep(1.0)


def table(tenths: Sequence[Tenth]) -> str:
    """The table of docs/benchmarks.md."""
    return "\n".join([f"| {' | '.join(HEADS)} |", "|---:" * len(HEADS) + "|", *(tenth.line for tenth in tenths)])


def main() -> int:
    """Soak, and print the curve."""
    n_chunks, n_workers = number("SOAK_CHUNKS", N_CHUNKS), number("SOAK_WORKERS", N_WORKERS)
    source = BENCH_DIR / f"soak-{n_chunks}.jsonl"
    source.write_text("".join(f'{{"n":{n}}}\n' for n in range(n_chunks)))
    with server() as server_url, own_database(server_url) as url:
        migrate(url)
        with psycopg.connect(url) as conn:
            row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
            assert row is not None
            postmaster = psutil.Process(psutil.Process(row[0]).ppid())
        with master_of(url, BENCH_DIR / "soak-home") as (master, site, processes):
            run_id = master.submit(find("jsonl", paths=[str(source)]), [str(source)], chunk_lines=1).run_id
            say(f"{n_chunks:,} chunks are cut ..")
            wait_cut(url, run_id, n_chunks)
            say(f"{n_workers} workers ..")
            with fleet_of(site.places.scheduler_address(), url, n_workers, site.home / "fleet.log"):
                readings = read_until_the_end(url, n_chunks, processes, postmaster)
                *_, last = master.watch(run_id)
        described = machine.describe(url)
    assert last.state == "succeeded", f"the run ended {last.state}: {last.reason}"
    assert last.chunks_done == n_chunks
    tenths = tenths_of(readings, n_chunks)
    grown = goals_of(tenths)
    met = {name: factor <= (GOAL_CPU if name == "cpu" else GOAL_MEMORY) for name, factor in grown.items()}
    say(json.dumps(described))
    say(table(tenths))
    say(", ".join(f"{name} grew to {factor:.2f} times" for name, factor in grown.items()))
    print(json.dumps({"tenths": [asdict(it) for it in tenths], "grown": grown, "goals_met": met, "machine": described}))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
