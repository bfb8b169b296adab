"""A sample of a source's lines: from its head, and, where that is cheap, from several places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final

from protheon_dask.errors import SourceDamaged
from protheon_dask.workspace.archives import open_archive
from protheon_dask.workspace.cut import LineBatch, batches
from protheon_dask.workspace.source import open_source, stat

N_LINES: Final = 10_000
SAMPLE_BYTES: Final = 32 << 20
"""Of lines, in all: to look at each value of so many takes some seconds (measured: 5 to 20 MB/s)."""
MAX_SOURCES: Final = 5
N_PLACES: Final = 5
"""Places of one source: its head and four more."""
SKIM_BYTES: Final = 256 << 20
"""Decompressed bytes of a compressed source that are passed over to reach its other places: a second of zstd."""
SKIM_STORED_BYTES: Final = 32 << 20
"""Stored bytes of the same: what may have to come over a network."""
BATCH_LINES: Final = 200
"""Lines taken at a time."""


@dataclass(frozen=True, slots=True)
class SampledLines:
    """Lines as a pipeline gets them. is_whole: they are all there are; places: from where, in words."""

    lines: list[bytes]
    is_whole: bool
    places: str


def sample_sources(paths: Sequence[str], n_lines: int = N_LINES, max_bytes: int = SAMPLE_BYTES) -> SampledLines:
    """Take about n_lines lines of a source, or of several of them.

    Shapes:     paths as resolve() names them; of many, five that are spread over them are looked at.
    Raises:     SourceUnavailable: a source cannot be read. SourceDamaged: nothing of it can.
    Guarantee:  the same sources, the same lines. Reads at most 256 MiB (decompressed) of a source, unless a line is longer, and of
                one that is not compressed little more than the sample. Memory is max_bytes, and at most 16 MiB or one line more.
    """
    step = max(1, (len(paths) + MAX_SOURCES - 1) // MAX_SOURCES)
    chosen = list(paths)[::step]
    samples = [_sample(path, -(-n_lines // len(chosen)), max_bytes // len(chosen)) for path in chosen]
    lines = [line for sample in samples for line in sample.lines]
    is_whole = len(chosen) == len(paths) and all(sample.is_whole for sample in samples)
    places = samples[0].places if len(samples) == 1 else f"of {len(chosen)} of {len(paths)} files"
    return SampledLines(lines[:n_lines], is_whole and len(lines) <= n_lines, places)


def _sample(path: str, n_lines: int, max_bytes: int) -> SampledLines:
    with closing(open_source(path)) as fileobj:
        archive = open_archive(fileobj)
        rest = batches(archive, 1, 0, BATCH_LINES)
        head = _Taken(n_lines, max_bytes)
        try:
            if head.take(rest):
                return SampledLines(head.lines, True, "all of them")
            size_bytes = stat(path).size_bytes
            if archive.format == "plain":
                places = _places(fileobj, size_bytes)
                head = _part(next(places), n_lines, max_bytes)
            else:
                stored_bytes = min(size_bytes, SKIM_STORED_BYTES)
                raw_bytes = archive.raw_offset * stored_bytes // max(1, fileobj.tell())  # so much is in them, as far as one knows
                places = _further(rest, head.end, min(raw_bytes, SKIM_BYTES))
            more = [_part(place, n_lines, max_bytes).lines for place in places]
        except SourceDamaged:
            if not head.lines:
                raise
            return SampledLines(head.lines, False, "before its damage")  # the splitter locates it and tells
        lines = [line for part in more for line in part]
        n_places = sum(1 for part in more if part)
        room = max_bytes - sum(map(len, lines))
        first: list[bytes] = []
        for line in head.lines[: max(0, n_lines - len(lines))]:
            room -= len(line)
            if room < 0 and first:
                break
            first.append(line)
        further = f" and {n_places} more place{'s' * (n_places > 1)}" if n_places else ""
        return SampledLines(first + lines, False, f"its head{further}")


def _part(place: Iterator[LineBatch], n_lines: int, max_bytes: int) -> _Taken:
    """A place's share of the lines."""
    taken = _Taken(max(1, n_lines // N_PLACES), max_bytes // N_PLACES)
    taken.take(place)
    return taken


class _Taken:
    """Lines up to a number of them and of bytes; the first one in any case. end: where in the source the last batch looked at ends."""

    def __init__(self, n_lines: int, max_bytes: int) -> None:
        self.lines: list[bytes] = []
        self.end = 0
        self._n_lines, self._max_bytes, self._n_bytes = n_lines, max_bytes, 0

    def take(self, batches: Iterator[LineBatch]) -> bool:
        """Take lines; tell whether there are no more."""
        for batch in batches:
            self.end = batch.byte_offset + batch.raw_bytes
            for line in batch.lines:
                if len(self.lines) >= self._n_lines or (self.lines and self._n_bytes + len(line) > self._max_bytes):
                    return False
                self.lines.append(line)
                self._n_bytes += len(line)
        return True


def _places(fileobj: BinaryIO, size_bytes: int) -> Iterator[Iterator[LineBatch]]:
    """Places of a source that is not compressed: the lines that begin in each of its fifths, but for the one that reaches into it."""
    bounds = [size_bytes * number // N_PLACES for number in range(N_PLACES + 1)]
    for start, end in pairwise(bounds):
        yield _beginning(batches(open_archive(fileobj, (start, start)), 1 if start == 0 else 2, start, BATCH_LINES), start, end)


def _beginning(batches: Iterator[LineBatch], start: int, end: int) -> Iterator[LineBatch]:
    """The lines that begin between the two offsets; where start is not 0, the first one is the end of another."""
    for batch in batches:
        if batch.byte_offset >= end:
            return
        skipped = 1 if 0 < start == batch.byte_offset else 0
        n_lines = batch.n_lines
        while n_lines and batch.offset_of(n_lines - 1) >= end:
            n_lines -= 1
        if skipped or n_lines < batch.n_lines:
            first, after = batch.offset_of(skipped) if skipped < batch.n_lines else end, batch.offset_of(n_lines)
            data = batch.data[first - batch.byte_offset : after - batch.byte_offset]
            batch = LineBatch(data, batch.first_line_no + skipped, first)
        if batch.n_lines:
            yield batch


def _further(rest: Iterator[LineBatch], start: int, end: int) -> Iterator[Iterator[LineBatch]]:
    """Places of a compressed source between two offsets of the decompressed one, reached by passing over what is between."""
    for number in range(1, N_PLACES):
        wanted = start + (end - start) * number // N_PLACES
        if all(batch.byte_offset + batch.raw_bytes <= wanted for batch in rest):
            return  # it ended before
        yield rest
