"""A scaffolded pipeline against a hand-written one over the same columns: one stored chunk to committed rows, in one process.

Usage: python -m benchmarks.scaffold [--lines N] [--rounds N]; PROTHEON_BENCH_URL for a PostgreSQL of one's own. Both load the same
chunk in turns, into tables made anew; the rows of each round are compared. One JSON object to stdout: the best of the rounds, and how fast
the scaffolded one is as a share of the other. CPU seconds are those of this process and of the server's backend together: they
hold on a machine that others use too, where wall seconds do not.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from benchmarks.bench import BENCH_DIR, say
from benchmarks.handwritten import handwritten
from benchmarks.hot_path import Stopwatch, store_chunk
from protheon_dask.config import Settings
from protheon_dask.errors import InvariantError
from protheon_dask.model import StageClock
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.pipelines.scaffold.make import Origin, scaffold
from protheon_dask.run import api
from protheon_dask.run.worker import quiet_collector
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.loader import ChunkLoader
from protheon_dask.sink.targets import ensure_tables
from protheon_dask.workspace import chunkfile, cut

SAMPLE_LINES = 2_000


@dataclass(frozen=True)
class Round:
    """One load. backend_cpu_s: of the server's process, 0 where it runs elsewhere."""

    watch: Stopwatch
    backend_cpu_s: float

    @property
    def wall_s(self) -> float:
        return sum(self.watch.wall_s.values())

    @property
    def cpu_s(self) -> float:
        return sum(self.watch.cpu_s.values()) + self.backend_cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    effective = api.read_settings({"home": str(BENCH_DIR / "home")})
    given = os.environ.get("PROTHEON_BENCH_URL")
    with (
        tempfile.TemporaryDirectory() as directory,
        api.opened(effective, api.resolve_database(effective, given, embedded=given is None)) as url,
    ):
        contestants = {"handwritten": handwritten, "scaffolded": scaffolded(Path(directory))}
        stored, raw_xxh3 = store_chunk(options.lines)
        quiet_collector()
        measured: dict[str, list[Round]] = {name: [] for name in contestants}
        for round_no in range(options.rounds + 1):
            rows = {}
            for name, pipeline in contestants.items():
                loaded = load(url, pipeline, stored, raw_xxh3, effective.settings)
                rows[name] = fingerprints(url, pipeline)
                if round_no:  # the first one warms up
                    measured[name].append(loaded)
                    say(f"round {round_no}: {name} {loaded.wall_s:.2f} s")
            if rows["handwritten"] != rows["scaffolded"]:
                raise InvariantError(f"the two loaded different rows: {rows}")
    print(json.dumps(result(options.lines, measured)))


def scaffolded(directory: Path) -> Pipeline:
    """The pipeline that scaffold makes of the head of the sample."""
    lines = list(sample_lines(SAMPLE_LINES))
    path = directory / "scaffolded.py"
    origin = Origin("reports.jsonl", "its head", False)
    path.write_text(scaffold(lines, origin, table="bench_made.reports", key=["activityDetails.instanceId"]).text)
    return find(str(path))


def load(url: str, pipeline: Pipeline, stored: bytes, raw_xxh3: bytes, settings: Settings) -> Round:
    """Load the chunk into new tables in one transaction, as an attempt does."""
    watch = Stopwatch()
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        conn.execute("DROP SCHEMA IF EXISTS bench_hand, bench_made CASCADE")
        conn.execute("CREATE SCHEMA bench_hand")
        conn.execute("CREATE SCHEMA bench_made")
        with conn.transaction():
            ensure_tables(conn, pipeline.tables)
        conn.execute("CHECKPOINT")
        with conn.transaction():
            targets = describe(conn, pipeline.tables)
        backend_cpu_s = _cpu_s(conn.info.backend_pid)
        conn.execute("BEGIN")
        transformer = pipeline.open(ChunkContext(load_id=1, task_id=1, path=""))
        loader = ChunkLoader(conn, targets, task_id=1, check_fence=lambda: None, clock=StageClock(), now=time.perf_counter)
        for batch in cut.batches(chunkfile.read_blocks(stored, raw_xxh3), 1, 0, settings.batch_lines, settings.batch_bytes):
            with watch.stage("read"):
                lines = batch.lines
            with watch.stage("transform"):
                rows = transformer.transform(lines, batch.line_nos)
            with watch.stage("copy"):
                loader.load(rows)
        with watch.stage("merge"):
            loader.finish()
        with watch.stage("commit"):
            conn.execute("COMMIT")
        return Round(watch, _cpu_s(conn.info.backend_pid) - backend_cpu_s)


def _cpu_s(pid: int) -> float:
    """CPU seconds so far of a process of this host that is PostgreSQL's; else 0."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times() if "postgres" in process.name() else None
    except psutil.Error:
        return 0.0
    return 0.0 if times is None else float(times.user + times.system)


def fingerprints(url: str, pipeline: Pipeline) -> list[tuple[object, ...]]:
    """For each table its number of rows and the sum of their hashes, without the provenance that only the scaffolded one keeps."""
    with psycopg.connect(url) as conn:
        found = []
        for table in pipeline.tables:
            values = ", ".join(f't."{column.name}"' for column in table.columns)
            query = f"SELECT count(*), sum(hashtextextended(ROW({values})::text, 0)) FROM {table.name} AS t"
            found += conn.execute(query.encode()).fetchall()
        return found


def result(n_lines: int, measured: dict[str, list[Round]]) -> dict[str, object]:
    """The best of the rounds, since others only ever slow one down, and ratios of hand-written to scaffolded time: 1 is as fast."""
    wall_s = {name: min(one.wall_s for one in rounds) for name, rounds in measured.items()}
    cpu_s = {name: min(one.cpu_s for one in rounds) for name, rounds in measured.items()}
    transform_s = {name: min(one.watch.cpu_s["transform"] for one in rounds) for name, rounds in measured.items()}
    return {
        "n_lines": n_lines,
        "rounds": len(measured["scaffolded"]),
        "wall_s": {name: round(s, 3) for name, s in wall_s.items()},
        "cpu_s": {name: round(s, 3) for name, s in cpu_s.items()},
        "transform_cpu_s": {name: round(s, 3) for name, s in transform_s.items()},
        "ratio_wall": round(wall_s["handwritten"] / wall_s["scaffolded"], 3),
        "ratio_cpu": round(cpu_s["handwritten"] / cpu_s["scaffolded"], 3),
        "ratio_transform": round(transform_s["handwritten"] / transform_s["scaffolded"], 3),
    }


if __name__ == "__main__":
    main()
