"""How fast this process decompresses, transforms and copies lines: for ``protheon doctor --bench`` and ``protheon plan``.

The code is the workers' own, without master and ledger; each stage is measured alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from protheon_dask.errors import ProtheonError
from protheon_dask.ledger.connect import opened
from protheon_dask.model import StageClock
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.pipelines.table import BatchRows
from protheon_dask.run.vitals import Benched
from protheon_dask.sink.loader import ChunkLoader
from protheon_dask.sink.trial import trial_tables
from protheon_dask.workspace.chunkfile import ChunkWriter, chunk_path, read_blocks
from protheon_dask.workspace.cut import BATCH_BYTES, BATCH_LINES, batches

SAMPLE_LINES: Final = 4_000
"""Two batches: 26 MB of JSON, made in half a second."""
STAGE_S: Final = 1.0
"""How long each stage is repeated."""
FIRST_LINES, GROWTH = 16, 8
"""So many lines are tried first, and then so many times as many, while there is time."""
NO_CHUNK: Final = 0
"""The chunk that rows of a trial name as theirs: there is none with this number."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Lines as a chunk of the workspace. Units: raw_bytes with line ends; pack_s: seconds that writing took."""

    stored: bytes
    raw_xxh3: bytes
    raw_bytes: int
    n_lines: int
    pack_s: float


def pack_lines(lines: Sequence[bytes]) -> Packed:
    """Write lines as a splitter writes a chunk, into a temporary file, and read it back."""
    with TemporaryDirectory(prefix="protheon-bench-") as directory:
        path = chunk_path(Path(directory), 1, 1, 1)
        raw = b"\n".join(lines) + b"\n"
        began_s = time.perf_counter()
        with ChunkWriter(path) as writer:
            writer.write(raw)
            raw_xxh3 = writer.end()
            writer.commit()
        return Packed(path.read_bytes(), raw_xxh3, len(raw), len(lines), time.perf_counter() - began_s)


def bench_sample(url: str | None, stage_s: float = STAGE_S) -> Benched:
    """Measure the built-in sample through pgcr, for stage_s each stage. url: of the database; None: nothing is copied.

    Guarantee: what is copied goes into temporary tables of a transaction that is rolled back.
    """
    return bench(pgcr, list(sample_lines(SAMPLE_LINES)), url, stage_s)


def bench(pipeline: Pipeline, lines: Sequence[bytes], url: str | None, stage_s: float = STAGE_S) -> Benched:
    """Measure these lines, at least one, through a pipeline, or as many of the first ones as stage_s is enough for.

    Raises what the pipeline raises that is not a line's fault.
    """
    packed = pack_lines(lines[:FIRST_LINES])
    with _quiet_collector():
        while True:  # what a line costs is not known: there are pipelines that take a second for one
            clock, began_s, n_lines = StageClock(), time.perf_counter(), packed.n_lines
            made = _transform(pipeline, packed, clock)
            clock.lines = n_lines
            if n_lines == len(lines) or (time.perf_counter() - began_s) * GROWTH > stage_s:
                break
            packed = pack_lines(lines[: n_lines * GROWTH])
        while clock.seconds["decompress"] + clock.seconds["transform"] < 2 * stage_s:
            made = _transform(pipeline, packed, clock)
            clock.lines += packed.n_lines
        decompress, transform = (clock.lines / max(1e-9, clock.seconds[stage]) for stage in ("decompress", "transform"))
        if url is None:
            return Benched(decompress, transform, None, "no database was asked")
        try:
            return Benched(decompress, transform, copy_rate(pipeline, made, packed.n_lines, url, stage_s))
        except ProtheonError as exc:
            return Benched(decompress, transform, None, str(exc))


def _transform(pipeline: Pipeline, packed: Packed, clock: StageClock) -> list[BatchRows]:
    """Read a chunk and make its rows, as run.ingest does."""
    transformer = pipeline.open(ChunkContext(load_id=NO_CHUNK, task_id=NO_CHUNK, path=""))
    made: list[BatchRows] = []
    pieces = iter(batches(read_blocks(packed.stored, packed.raw_xxh3), 1, 0, BATCH_LINES, BATCH_BYTES))
    while True:
        began_s = time.perf_counter()
        batch = next(pieces, None)
        clock.add("decompress", (read_s := time.perf_counter()) - began_s)
        if batch is None:
            return made
        made.append(transformer.transform(batch.lines, batch.line_nos))
        clock.add("transform", time.perf_counter() - read_s)


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """As in a worker process (run.worker.quiet_collector), for the time of a block."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def copy_rate(pipeline: Pipeline, made: Sequence[BatchRows], n_lines: int, url: str, stage_s: float) -> float:
    """Lines a second into temporary tables. Raises ConfigError, LedgerUnavailable: the database refuses, or does not answer."""
    with opened(url, application="protheon-bench") as conn:
        n_done, took_s = 0, 0.0
        while took_s < stage_s:
            with trial_tables(conn, pipeline.tables, values_are_exact=pipeline.values_are_exact) as targets:
                began_s = time.perf_counter()
                loader = ChunkLoader(conn, targets, task_id=NO_CHUNK, check_fence=lambda: None, clock=StageClock(), now=time.perf_counter)
                for rows in made:
                    loader.load(rows)
                loader.finish()
                took_s += time.perf_counter() - began_s
            n_done += n_lines
    return n_done / took_s
