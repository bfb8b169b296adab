"""The handler ``ingest``: one chunk's bytes to rows in one fenced data transaction."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from protheon_dask import failpoints
from protheon_dask.broker.chunks import WantedChunk
from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings
from protheon_dask.errors import InvariantError, ProtheonError
from protheon_dask.ledger import replays, runs, verbs
from protheon_dask.ledger.connect import Connection
from protheon_dask.ledger.replays import Place
from protheon_dask.model import ChunkManifest, Lines, Loaded, RejectedLine, StageClock
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.table import Verdict
from protheon_dask.policy import REJECT_LIMIT, RejectLimit
from protheon_dask.run.keeper import Attempt, Pulse
from protheon_dask.sink.catalog import Target
from protheon_dask.sink.checksum import Comparable
from protheon_dask.sink.loader import ChunkLoader, LineFault
from protheon_dask.workspace import chunkfile, cut

SPOOL_BYTES = 4 << 20
"""Stored chunks up to this size stay in memory, larger ones go to a temporary file: a worker's memory does not grow with its chunks."""
SLOWEST_LINK_BYTES_PER_S = 64 << 10
"""A fetch may take a lease and what its bytes take at this rate; it makes progress, so its lease is renewed meanwhile."""
RAW_BYTES = 65_536
"""Bytes of a refused line that its reject keeps (DESIGN, The ledger)."""


class RejectLimitCrossed(ProtheonError):
    """This chunk brings its run over its reject limit: it is rolled back, and the run pauses with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class ChunkWork:
    """All that one chunk needs: the claim's answer, and the process's tools."""

    claimed: verbs.Claimed
    chunk: ChunkManifest
    load_id: int
    run_id: int
    pipeline: Pipeline
    targets: Sequence[Target]
    compared: Mapping[str, Comparable]
    attempt: Attempt
    settings: Settings
    clock: StageClock


def fetch(work: ChunkWork, broker: BrokerClient) -> BinaryIO:
    """Get the chunk's stored bytes, whole and checked, before any transaction is open.

    Raises: what BrokerClient.fetch_chunk raises; LeaseLost as soon as the lease is lost.
    """
    failpoints.hit("fetch.before")
    chunk, clock = work.chunk, work.clock
    started_s, waited_before_s = clock.enter("fetch", time.perf_counter()), clock.seconds["wait"]

    def wait(seconds: float) -> None:
        """Wait for a broker that is away, or cuts the chunk again: charged apart, it says nothing of the link; no stall, for it ends."""
        began_s = clock.enter("wait", time.perf_counter())
        work.attempt.wait(seconds)
        work.attempt.progress()
        clock.add("wait", clock.enter("fetch", time.perf_counter()) - began_s)

    spool = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))  # noqa: SIM115  # closed by the caller
    wanted = WantedChunk(work.claimed.lease.task_id, chunk.generation, chunk.stored_bytes, chunk.stored_xxh3)
    deadline_s = work.settings.lease_s + chunk.stored_bytes / SLOWEST_LINK_BYTES_PER_S
    clock.wire_bytes += broker.fetch_chunk(wanted, spool, deadline_s=deadline_s, wait=wait, on_bytes=work.attempt.progress)
    clock.add("fetch", time.perf_counter() - started_s - (clock.seconds["wait"] - waited_before_s))
    failpoints.hit("fetch.after")
    return spool


def load(work: ChunkWork, stored: BinaryIO, conn: Connection, *, merge_each_batch: bool = False) -> Loaded:
    """Decompress, cut, transform and copy the chunk as one stream, inside the caller's open transaction.

    Raises:    RejectLimitCrossed, LeaseLost, ChecksumMismatch, what the pipeline's set-up and the server raise; the caller rolls back.
               SchemaViolation: the last merge refused a row of no known line: load again with merge_each_batch, which finds it.
    Guarantee: memory is a few batches, however large the chunk is. All is written but complete and COMMIT.
    """
    chunk, lease, clock = work.chunk, work.claimed.lease, work.clock
    pulse = Pulse(work.attempt, lambda: verbs.check_fence(conn, lease), work.settings.renew_s)
    context = ChunkContext(
        load_id=work.claimed.replay_of or work.load_id, task_id=lease.task_id, path=work.claimed.path or "", progress=pulse
    )
    transformer = work.pipeline.open(context)
    loader = ChunkLoader(
        conn,
        work.targets,
        task_id=lease.task_id,
        check_fence=lambda: verbs.check_fence(conn, lease),
        clock=clock,
        now=time.perf_counter,
        merge_each_batch=merge_each_batch,
        compared=work.compared,
    )
    stored.seek(0)
    clock.raw_bytes = clock.lines = clock.rows = 0
    limit = _RejectLimit(conn, work)
    total = loaded = filtered = blank = rejected = parts = 0
    blocks = chunkfile.read_blocks(stored, chunk.raw_xxh3)
    batches = cut.batches(blocks, chunk.first_line, chunk.byte_offset, work.settings.batch_lines, work.settings.batch_bytes)
    for batch in _timed(batches, clock):
        work.attempt.check()
        started_s = clock.enter("transform", time.perf_counter())
        places = _places(conn, work, batch)
        try:
            rows = transformer.transform(*_as_in_source(batch, places))
        finally:  # of an attempt that ends here, too
            clock.add("transform", time.perf_counter() - started_s)
        with work.attempt.in_flight():
            faults = loader.load(rows)
            whole = {fault.index for fault in faults}
            refused_parts = [verdict for verdict in rows.parts if verdict.index not in whole]
            refused = [_refused(batch, places, verdict) for verdict in (*rows.rejected, *refused_parts)]
            refused += [_refused_by_server(batch, places, fault) for fault in faults]
            if refused:
                started_s = clock.enter("ledger", time.perf_counter())
                verbs.reject(conn, work.load_id, lease.task_id, lease.attempt_no, refused)
                clock.add("ledger", time.perf_counter() - started_s)
        clock.raw_bytes += batch.raw_bytes
        clock.lines += batch.n_lines
        clock.rows += sum(len(table.rows) for table in rows.tables)
        total += batch.n_lines
        loaded += rows.n_loaded() - len(faults)
        rejected += len(rows.rejected) + len(faults)
        if rows.rejected or faults:
            limit.look(rejected, total, refused[0 if rows.rejected else -len(faults)])
        filtered += len(rows.filtered)
        blank += len(rows.blank)
        parts += len(refused_parts)
        del batch, rows
    if total != chunk.n_lines:
        raise InvariantError(f"chunk {lease.task_id}: {total} lines where its manifest says {chunk.n_lines}")
    if total != loaded + filtered + rejected + blank:
        raise InvariantError(
            f"chunk {lease.task_id}: of {total} lines {loaded} are loaded, {filtered} filtered, {rejected} rejected and {blank} blank: "
            f"pipeline {work.pipeline.name} lost lines, or gave some two verdicts"
        )
    limit.judge(rejected, total)
    with work.attempt.in_flight():
        counts = loader.finish()
        for notice in loader.notices():
            runs.add_notice(conn, work.load_id, notice)
        if work.claimed.replay_of is not None:
            replays.mark_replayed(conn, work.run_id, work.load_id, chunk.first_line, chunk.n_lines)
    return Loaded(Lines(total, loaded, filtered, rejected, blank, parts), counts)


class _RejectLimit:
    """Ends a chunk that brings its run over its reject limit, as soon as that is certain: if all of its other lines were good.

    Every chunk with a reject asks, whatever its own share is: chunks before it may be beyond a fraction that was not judged
    yet, since the run had too few lines for that or they were committed side by side.
    """

    def __init__(self, conn: Connection, work: ChunkWork) -> None:
        self._conn, self._work = conn, work
        self._known: tuple[RejectLimit, runs.Committed] | None = None
        self._example: RejectedLine | None = None

    def look(self, rejected: int, seen: int, example: RejectedLine) -> None:
        """Judge by what the run had when this was asked first, and ask again before it is said.

        rejected, seen: lines of the chunk so far. example: one of them.
        """
        self._example = self._example or example
        if self._known is None or self._is_crossed(rejected, *self._known):
            self.judge(rejected, seen)

    def judge(self, rejected: int, seen: int) -> None:
        """Raise RejectLimitCrossed if the run's committed rejects and this chunk's own are beyond its limit."""
        if not rejected:
            return
        limit, committed = self._known = runs.limit_of(self._conn, self._work.run_id), runs.count_lines(self._conn, self._work.run_id)
        if not self._is_crossed(rejected, limit, committed):
            return
        n_rejected, n_lines = committed.rejected + rejected, committed.lines + self._work.chunk.n_lines
        how_sure = "" if seen == self._work.chunk.n_lines else "at least "
        example = "" if self._example is None else f", as line {self._example.line_no:,}: {self._example.reason}"
        told = f"{n_rejected:,} of {n_lines:,} lines {'is' if n_rejected == 1 else 'are'} rejected"
        raise RejectLimitCrossed(f"{REJECT_LIMIT} {limit}: {how_sure}{told}{example}; see why: protheon rejects show {self._work.run_id}")

    def _is_crossed(self, rejected: int, limit: RejectLimit, committed: runs.Committed) -> bool:
        return limit.is_crossed(committed.rejected + rejected, committed.lines + self._work.chunk.n_lines)


def _timed(batches: Iterable[cut.LineBatch], clock: StageClock) -> Iterator[cut.LineBatch]:
    """Charge the time that the next batch takes to decompression."""
    iterator = iter(batches)
    while True:
        started_s = clock.enter("decompress", time.perf_counter())
        batch = next(iterator, None)
        clock.add("decompress", time.perf_counter() - started_s)
        if batch is None:
            return
        yield batch
        del batch  # before the next one is made: two would be in memory


def _places(conn: Connection, work: ChunkWork, batch: cut.LineBatch) -> Sequence[Place] | None:
    """Where the lines of a replay's batch came from; None: they stand in the source where they stand in the batch."""
    if work.claimed.replay_of is None:
        return None
    with work.attempt.in_flight():
        return replays.places(conn, work.load_id, batch.first_line_no, batch.n_lines)


def _as_in_source(batch: cut.LineBatch, places: Sequence[Place] | None) -> tuple[Sequence[bytes], Sequence[int]]:
    """The lines as the pipeline gets them, with their numbers in the source."""
    if places is None:
        return batch.lines, batch.line_nos
    lines = batch.lines
    if batch.first_line_no == 1 and places[0].line_no > 1:  # the mark at its beginning is its own: a BOM is line 1's alone
        lines = [batch.raw_line(0).removesuffix(cut.CR), *lines[1:]]
    return lines, [place.line_no for place in places]


def _line(
    batch: cut.LineBatch,
    places: Sequence[Place] | None,
    index: int,
    reason: str,
    *,
    part: str | None = None,
    sqlstate: str | None = None,
    table: str | None = None,
) -> RejectedLine:
    raw = batch.raw_line(index)
    place = Place(batch.first_line_no + index, batch.offset_of(index)) if places is None else places[index]
    return RejectedLine(place.line_no, place.byte_offset, part, reason, sqlstate, table, raw[:RAW_BYTES], len(raw))


def _refused(batch: cut.LineBatch, places: Sequence[Place] | None, verdict: Verdict) -> RejectedLine:
    return _line(batch, places, verdict.index, verdict.reason, part=verdict.part)


def _refused_by_server(batch: cut.LineBatch, places: Sequence[Place] | None, fault: LineFault) -> RejectedLine:
    return _line(batch, places, fault.index, fault.reason, sqlstate=fault.sqlstate, table=fault.table)


__all__ = ["ChunkWork", "RejectLimitCrossed", "fetch", "load"]
