"""The hot path in one process, for a profiler: a stored chunk to committed rows, without cluster, gRPC and ledger.

Usage: python benchmarks/hot_path.py [--lines N] [--repeat N]; under py-spy: py-spy record --rate 200 -o hot.svg -- python
benchmarks/hot_path.py. It prints wall and CPU seconds of each stage, the CPU seconds of the server's backend and the WAL written.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from benchmarks import target
from benchmarks.bench import BENCH_DIR, say
from protheon_dask.config import Settings
from protheon_dask.model import StageClock
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.run import api
from protheon_dask.run.worker import quiet_collector
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.checksum import compared_of
from protheon_dask.sink.loader import ChunkLoader
from protheon_dask.workspace import chunkfile, cut

N_LINES = 25_000
"""A chunk of the benchmark's source on two cores: 400,000 lines / (8 x 2 threads)."""
STAGES = ("read", "transform", "copy", "merge", "commit")


class Stopwatch:
    """Wall and CPU seconds of this process by stage."""

    def __init__(self) -> None:
        self.wall_s = dict.fromkeys(STAGES, 0.0)
        self.cpu_s = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.wall_s[name] += time.perf_counter() - wall_s
        self.cpu_s[name] += time.process_time() - cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=N_LINES)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--checksum", action="store_true", help="each repetition with checksums as well")
    options = parser.parse_args()
    effective = api.read_settings({"home": str(BENCH_DIR / "home")})
    given = os.environ.get("PROTHEON_BENCH_URL")
    with api.opened(effective, api.resolve_database(effective, given, embedded=given is None)) as url:
        stored, raw_xxh3 = store_chunk(options.lines)
        quiet_collector()
        say(f"{options.lines:,} lines, {len(stored):,} bytes stored")
        for _ in range(options.repeat):
            for checksum in (False, True) if options.checksum else (False,):
                target.remake(url)
                made = load_chunk(url, stored, raw_xxh3, options.lines, effective.settings, checksum=checksum)
                print(json.dumps({"checksum": checksum, **made}), flush=True)


def store_chunk(n_lines: int) -> tuple[bytes, bytes]:
    """A chunk as the workspace stores it, and the XXH3-128 of its raw bytes."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chunk.zst"
        with chunkfile.ChunkWriter(path) as writer:
            for line in sample_lines(n_lines):
                writer.write(line + b"\n")
            raw_xxh3 = writer.end()
            writer.commit()
        return path.read_bytes(), raw_xxh3


def load_chunk(url: str, stored: bytes, raw_xxh3: bytes, n_lines: int, settings: Settings, *, checksum: bool = False) -> dict[str, object]:
    """Load the chunk in one transaction, as an attempt does, and return what each stage took."""
    watch, clock = Stopwatch(), StageClock()
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        with conn.transaction():
            targets = describe(conn, pgcr.tables, values_are_exact=pgcr.values_are_exact)
            compared = compared_of(conn, targets) if checksum else {}
        backend = _backend(conn)
        lsn = _one(conn, "SELECT pg_current_wal_lsn()")
        backend_cpu_s = _cpu_s(backend)
        started_s = time.perf_counter()
        conn.execute("BEGIN")
        transformer = pgcr.open(ChunkContext(load_id=1, task_id=1, path=""))
        now = time.perf_counter
        loader = ChunkLoader(conn, targets, task_id=1, check_fence=_no_fence, clock=clock, now=now, compared=compared)
        batches = cut.batches(chunkfile.read_blocks(stored, raw_xxh3), 1, 0, settings.batch_lines, settings.batch_bytes)
        while True:
            with watch.stage("read"):
                batch = next(batches, None)
                lines = [] if batch is None else batch.lines
            if batch is None:
                break
            with watch.stage("transform"):
                rows = transformer.transform(lines, batch.line_nos)
            with watch.stage("copy"):
                loader.load(rows)
        with watch.stage("merge"):
            loader.finish()
        with watch.stage("commit"):
            conn.execute("COMMIT")
        seconds = time.perf_counter() - started_s
        backend_cpu_s = _cpu_s(backend) - backend_cpu_s
        wal_bytes = int(str(_one(conn, f"SELECT pg_current_wal_lsn() - '{lsn}'")))
    return {
        "lines_per_s": round(n_lines / seconds),
        "seconds": round(seconds, 3),
        "wall_s": {stage: round(s, 3) for stage, s in watch.wall_s.items()},
        "cpu_s": {stage: round(s, 3) for stage, s in watch.cpu_s.items()},
        "backend_cpu_s": round(backend_cpu_s, 3) if backend else None,
        "wal_mb": round(wal_bytes / 1e6, 1),
        "rows": target.counts(url),
    }


def _no_fence() -> None:
    """Nobody else has this chunk."""


def _backend(conn: psycopg.Connection) -> psutil.Process | None:
    """The server's process of this connection, if it runs on this host."""
    try:
        process = psutil.Process(conn.info.backend_pid)
        return process if "postgres" in process.name() else None
    except psutil.Error:
        return None


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _one(conn: psycopg.Connection, query: str) -> object:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None  # such a query always has its row
    return row[0]


if __name__ == "__main__":
    main()
