"""Cut one source into chunk files: the work of a splitting process as an iterator of events, and its vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import xxhash

from protheon_dask import failpoints
from protheon_dask.errors import ConfigError, SourceChanged, SourceDamaged, SourceUnavailable
from protheon_dask.model import ChunkManifest, Identity
from protheon_dask.workspace.archives import BLOCK_BYTES, Archive, ForwardReader, Restart, open_archive
from protheon_dask.workspace.chunkfile import ChunkWriter, chunk_path
from protheon_dask.workspace.cut import LF, Cut, Cutter, Lines, Step
from protheon_dask.workspace.source import identify_open, open_source, stat
from protheon_dask.workspace.url import shown

HEAD_BYTES = 64 << 10  # DESIGN, The ledger: raw bytes of a line that a reject keeps


class SplitJob(msgspec.Struct, frozen=True, kw_only=True):
    """What one splitting process is to do.

    wanted empty: cut the source from its beginning, or after the chunk resume_after.
    wanted given: cut just these chunks again, in one pass, each as its next generation; no credit is needed.
    """

    load_id: int
    path: str
    directory: str  # the workspace's
    identity: Identity
    chunk_lines: int
    max_chunk_raw_bytes: int
    max_line_bytes: int
    resume_after: ChunkManifest | None = None
    wanted: tuple[ChunkManifest, ...] = ()


class ChunkCut(msgspec.Struct, frozen=True, tag=True):
    """A chunk is on disk under its name, so its manifest may be written.

    manifest.oversized: there is no file, and raw has the line's first 64 KiB; otherwise raw is empty.
    """

    manifest: ChunkManifest
    raw: bytes = b""


class SplitEnded(msgspec.Struct, frozen=True, tag=True):
    """The last event of a splitter that came to the end of the source, or to where it is damaged.

    The counts are those of the whole load, chunks before a resume included; for wanted chunks, of these.
    damaged_at: offset in the source as stored; what was whole before it has been cut, and message says so.
    notice: what a person should know of a source that is whole.
    """

    n_chunks: int
    n_lines: int
    raw_bytes: int
    damaged_at: int | None = None
    message: str = ""
    notice: str = ""


class WideWindow(msgspec.Struct, frozen=True, tag=True):
    """The splitter waits for leave to keep a window of so many bytes: Credit.allow_wide."""

    window_bytes: int


class SplitFailed(msgspec.Struct, frozen=True, tag=True):
    """The last event of a splitter that could not go on; the chunks cut before it stand.

    kind: ``unavailable``: source, disk or memory cannot be had now, or the process was killed: resume later. ``refused``: the source
    is gone or may not be read: the operator. ``changed``: it is not what it was: the operator. ``internal``: a defect; the traceback
    is on stderr.
    """

    message: str
    kind: Literal["unavailable", "refused", "changed", "internal"]


SplitEvent = ChunkCut | WideWindow | SplitEnded | SplitFailed


class Credit:
    """What a splitter may use: stored bytes, and a window over WIDE_WINDOW_BYTES. Thread-safe.

    A chunk is begun while any bytes are left, so the last may go beyond. ask_wide is told once that a window is wanted, and of which
    size; without it any window is allowed.
    """

    def __init__(self, n_bytes: int = 0, ask_wide: Callable[[int], None] | None = None) -> None:
        self._n_bytes, self._ask_wide = n_bytes, ask_wide
        self._is_wide_allowed = ask_wide is None
        self._changed = threading.Condition()

    def allow_wide(self) -> None:
        with self._changed:
            self._is_wide_allowed = True
            self._changed.notify_all()

    def wait_wide(self, window_bytes: int) -> None:
        """Wait for leave; it holds until the splitter ends."""
        if not self._is_wide_allowed and self._ask_wide is not None:
            self._ask_wide(window_bytes)
            with self._changed:
                self._changed.wait_for(lambda: self._is_wide_allowed)

    def grant(self, n_bytes: int) -> None:
        with self._changed:
            self._n_bytes += n_bytes
            self._changed.notify_all()

    def spend(self, n_bytes: int) -> None:
        with self._changed:
            self._n_bytes -= n_bytes

    def wait_any_left(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._n_bytes > 0)


def split(job: SplitJob, credit: Credit) -> Iterator[SplitEvent]:
    """Do a job; the last event is SplitEnded or SplitFailed.

    Guarantee:  blocks while there is no credit. The same source and limits give the same chunks and manifests, wherever it
                was resumed. A chunk is on disk before its event. Closing the iterator leaves no temporary file.
    """
    try:
        yield from _cut_again(job, credit) if job.wanted else _SourceCutter(job, credit).events()
    except SourceChanged as exc:
        yield SplitFailed(str(exc), "changed")
    except ConfigError as exc:
        yield SplitFailed(f"{exc}; what was loaded of it stands: put it right and type the same again", "refused")
    except SourceUnavailable as exc:
        yield SplitFailed(str(exc), "unavailable")
    except OSError as exc:
        yield SplitFailed(f"{shown(job.path)}: it cannot be read, or its chunks cannot be written: {exc}", "unavailable")
    except MemoryError as exc:
        yield SplitFailed(f"{shown(job.path)}: not enough memory to decompress it: {exc or 'none is left'}", "unavailable")


class _SourceCutter:
    """Cutting one source from a known place on. Single use."""

    def __init__(self, job: SplitJob, credit: Credit) -> None:
        self._job, self._credit = job, credit
        last = job.resume_after
        # Of the open chunk: its number, first line and offset. Starts: places to begin, and the number of the line there;
        # the first is the nearest before the open chunk, except that those passed since the last cut are still behind it.
        self._chunk_no, self._first_line, self._offset = 1, 1, 0
        self._starts: list[tuple[Restart, int]] = [((0, 0), 1)]
        if last is not None:
            self._chunk_no, self._first_line = last.chunk_no + 1, last.first_line + last.n_lines
            self._offset = last.byte_offset + last.raw_bytes
            self._starts = [((last.restart_stored_offset, last.restart_raw_offset), last.restart_line)]
        self._cutter = self._new_cutter()
        self._writer: ChunkWriter | None = None
        self._overlong, self._head = xxhash.xxh3_128(), b""

    def events(self) -> Iterator[SplitEvent]:
        path, name, damage = self._job.path, shown(self._job.path), None
        with open_source(path) as source:
            before = stat(path)
            _check_identity(self._job, source)
            try:
                archive = open_archive(source, self._starts[0][0], self._credit.wait_wide)
                try:
                    yield from self._feed(archive, None)
                except SourceDamaged as exc:
                    damage = SourceDamaged(*exc.args)  # without the traceback, which keeps the archive and its window
                if stat(path) != before:
                    raise SourceChanged(
                        f"{name}: it changed while it was read: what was loaded of it stands, the rest is not loaded; "
                        "when it is complete, load it anew: it counts as another source"
                    )
                if damage is not None:
                    # Nothing vouches for what a damaged frame gave: cut the open chunk again, up to the end of the frame before.
                    self._abandon()
                    self._cutter = self._new_cutter()
                    intact_raw_offset = archive.intact_raw_offset
                    if intact_raw_offset > self._offset:
                        archive = open_archive(source, self._starts[0][0])  # over the other one: two wide windows may be too much
                        yield from self._feed(archive, intact_raw_offset)
                yield from self._take(self._cutter.finish(whole_only=damage is not None))
            finally:
                self._abandon()
        n_chunks, n_lines = self._chunk_no - 1, self._first_line - 1
        if damage is None:
            yield SplitEnded(n_chunks, n_lines, self._offset, notice=_notice(name, archive))
        else:
            kept = f"the {n_lines:,} whole lines before it are kept" if n_lines else "no whole line before it could be kept"
            message = f"{name}: {damage}; {kept}; mend the file and type the same again: it will be loaded as a new one"
            yield SplitEnded(n_chunks, n_lines, self._offset, damage.byte_offset, message)

    def _new_cutter(self) -> Cutter:
        job = self._job
        return Cutter(job.chunk_lines, job.max_chunk_raw_bytes, job.max_line_bytes, first_line=self._first_line, byte_offset=self._offset)

    def _feed(self, archive: Archive, upto: int | None) -> Iterator[ChunkCut]:
        """Cut what the archive gives between the beginning of the open chunk and the offset upto, or the end."""
        begin, skipped_line = self._offset, self._starts[0][1]
        for block in archive:
            offset = archive.raw_offset - len(block)
            skip_bytes = max(0, begin - offset)
            self._add_start(archive.restart, skipped_line if skip_bytes else self._cutter.line_no)
            if skip_bytes:
                skipped_line += block.count(LF, 0, skip_bytes)
            piece = block if upto is None and not skip_bytes else block[skip_bytes : None if upto is None else upto - offset]
            yield from self._take(self._cutter.feed(piece))
            if upto is not None and archive.raw_offset >= upto:
                return  # the archive would meet its damage next

    def _add_start(self, start: Restart, line_no: int) -> None:
        # One a MiB is enough. The rule looks at the source alone, so that a resumed splitter writes the same manifests.
        if start[1] >= self._starts[-1][0][1] + BLOCK_BYTES:
            self._starts.append((start, line_no))

    def _take(self, steps: list[Step]) -> Iterator[ChunkCut]:
        for step in steps:
            if isinstance(step, Cut):
                yield self._end_chunk(step)
            elif isinstance(step, Lines):
                if self._writer is None:
                    self._credit.wait_any_left()
                    self._writer = ChunkWriter(chunk_path(Path(self._job.directory), self._job.load_id, self._first_line, generation=1))
                self._writer.write(step.data)
                failpoints.hit("split.mid")
            else:
                self._overlong.update(step.data)
                self._head += step.data[: HEAD_BYTES - len(self._head)]

    def _end_chunk(self, cut: Cut) -> ChunkCut:
        while len(self._starts) > 1 and self._starts[1][0][1] <= cut.byte_offset:
            del self._starts[0]
        (restart_stored_offset, restart_raw_offset), restart_line = self._starts[0]
        stored_bytes, stored_xxh3, raw = 0, b"", b""
        if self._writer is None:
            raw_xxh3, raw = self._overlong.digest(), self._head
            self._overlong, self._head = xxhash.xxh3_128(), b""
        else:
            raw_xxh3, stored_xxh3 = self._writer.end(), self._writer.commit()
            stored_bytes, self._writer = self._writer.stored_bytes, None
            self._credit.spend(stored_bytes)
        manifest = ChunkManifest(
            chunk_no=self._chunk_no,
            first_line=cut.first_line,
            n_lines=cut.n_lines,
            byte_offset=cut.byte_offset,
            raw_bytes=cut.raw_bytes,
            raw_xxh3=raw_xxh3,
            stored_bytes=stored_bytes,
            stored_xxh3=stored_xxh3,
            generation=1,
            restart_stored_offset=restart_stored_offset,
            restart_raw_offset=restart_raw_offset,
            restart_line=restart_line,
            oversized=cut.oversized,
        )
        self._chunk_no += 1
        self._first_line += cut.n_lines
        self._offset += cut.raw_bytes
        return ChunkCut(manifest, raw)

    def _abandon(self) -> None:
        """Give up the open chunk."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        self._overlong, self._head = xxhash.xxh3_128(), b""


def _notice(name: str, archive: Archive) -> str:
    if archive.ignored is None:
        return ""
    offset, n_bytes = archive.ignored
    return (
        f"{name}: whole, but after its last {archive.format} member, at stored byte {offset:,}, there are {n_bytes:,} bytes that are none: "
        f"ignored, as {archive.format} itself does"
    )


def _cut_again(job: SplitJob, credit: Credit) -> Iterator[SplitEvent]:
    """Cut the wanted chunks again, forward through the source, jumping to a later start where there is one."""
    wanted = sorted((manifest for manifest in job.wanted if not manifest.oversized), key=lambda manifest: manifest.byte_offset)
    with open_source(job.path) as source:
        _check_identity(job, source)
        reader = ForwardReader(source, credit.wait_wide)
        for manifest in wanted:
            new = replace(manifest, generation=manifest.generation + 1)
            with ChunkWriter(chunk_path(Path(job.directory), job.load_id, new.first_line, new.generation)) as writer:
                try:
                    for piece in reader.read((new.restart_stored_offset, new.restart_raw_offset), new.byte_offset, new.raw_bytes):
                        writer.write(piece)
                        failpoints.hit("split.mid")
                except SourceDamaged as exc:
                    raise SourceChanged(
                        f"{shown(job.path)}: it was whole when it was cut before; now: {exc}; restore the file and type the same again"
                    ) from exc
                if writer.end() != new.raw_xxh3:
                    last_line = new.first_line + new.n_lines - 1
                    raise SourceChanged(
                        f"{shown(job.path)}: lines {new.first_line} to {last_line} are not those that were cut before; "
                        "restore the source, or load what it is now with --again"
                    )
                yield ChunkCut(replace(new, stored_xxh3=writer.commit(), stored_bytes=writer.stored_bytes))
    yield SplitEnded(len(wanted), sum(manifest.n_lines for manifest in wanted), sum(manifest.raw_bytes for manifest in wanted))


def _check_identity(job: SplitJob, source: BinaryIO) -> None:
    found = identify_open(source, job.path)
    if found != job.identity:
        raise SourceChanged(
            f"{shown(job.path)}: it is not the file that was submitted: then {job.identity.size_bytes:,} bytes with the checksum "
            f"{job.identity.digest.hex()}, now {found.size_bytes:,} with {found.digest.hex()}; type the same again to load what it is now"
        )
