"""The protocol of a chunk's bytes without IO: order, integrity, and what to do when a stream breaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import xxhash

from protheon_dask.errors import ChecksumMismatch, ChunkGap, ChunkOutdated, LeadershipLost, ProtheonError, TransientError

MESSAGE_BYTES = 1 << 20
"""Data of one message: 64 KiB costs three times the CPU a byte, above 1 MiB nothing is won (measured, PITFALLS 8)."""

FIRST_DELAY_S = 0.2
"""Wait before a broken stream is opened again; doubles with each break that brought nothing."""

MAX_DELAY_S = 5.0
"""No wait is longer: a broker that is back is found within this."""

MAX_GAPS = 3
"""Gaps in a row without a byte between them: the two sides disagree about the chunk, and asking again does not help."""


@dataclass(frozen=True, slots=True)
class WantedChunk:
    """A chunk as its manifest describes it: what a fetch must yield, byte for byte."""

    chunk_id: int  # of the task; of a pinned chunk its number in the pin
    generation: int  # of the stored form, from 1
    stored_bytes: int
    stored_xxh3: bytes  # XXH3-128, 16 bytes, big endian
    pin_id: str = ""  # empty: a chunk of a run


@dataclass(frozen=True, slots=True)
class PinnedChunk:
    """A chunk that no run loads, kept in the workspace for those who read it; or, with the number 0, only a notice."""

    pin_id: str
    chunk_no: int  # from 1 in the pin
    path: str = ""  # as people may see it
    first_line: int = 0  # from 1 in its source
    n_lines: int = 0  # blank ones included
    raw_bytes: int = 0
    stored_bytes: int = 0
    stored_xxh3: bytes = b""
    raw_xxh3: bytes = b""
    notice: str = ""  # for people: what is left out, and why

    def wanted(self, generation: int) -> WantedChunk:
        """What a fetch must yield; a generation above 1 says that the one before it was wrong."""
        return WantedChunk(self.chunk_no, generation, self.stored_bytes, self.stored_xxh3, self.pin_id)


class ChunkSink(Protocol):
    """Where a chunk's bytes go: an empty BytesIO, SpooledTemporaryFile or binary file."""

    def write(self, data: bytes, /) -> object: ...
    def seek(self, offset: int, /) -> object: ...
    def truncate(self, size: int, /) -> object: ...


class ChunkAssembler:
    """Order and integrity of one chunk's messages, over as many streams as it takes. Single use, not thread-safe, O(1) memory.

    A stream that broke is continued by another that starts at offset_bytes: the hash goes on.
    Raises: ChunkGap: the message does not start at offset_bytes, or goes beyond the stored bytes; it was not taken, and
            what was fed before stands. finish(): ChunkGap when bytes are missing (go on at offset_bytes), ChecksumMismatch
            when they are all there and wrong: then all bytes that feed() returned are worthless.
    """

    def __init__(self, wanted: WantedChunk) -> None:
        self.offset_bytes = 0
        self._wanted, self._hash = wanted, xxhash.xxh3_128()

    @property
    def is_full(self) -> bool:
        return self.offset_bytes == self._wanted.stored_bytes

    def feed(self, offset_bytes: int, data: bytes) -> bytes:
        """Take the next message and return its data."""
        if offset_bytes != self.offset_bytes:
            raise ChunkGap(self.offset_bytes, offset_bytes)
        end_bytes = offset_bytes + len(data)
        if end_bytes > self._wanted.stored_bytes:
            raise ChunkGap(self._wanted.stored_bytes, end_bytes)
        self._hash.update(data)
        self.offset_bytes = end_bytes
        return data

    def finish(self) -> None:
        """Check that the chunk is whole and the manifest's."""
        if not self.is_full:
            raise ChunkGap(self._wanted.stored_bytes, self.offset_bytes)
        if self._hash.digest() != self._wanted.stored_xxh3:
            raise ChecksumMismatch(self._wanted.stored_xxh3.hex(), self._hash.hexdigest())


@dataclass(frozen=True, slots=True)
class Tries:
    """What a fetch has behind it."""

    fruitless: int = 0  # streams in a row that ended without a byte
    gaps: int = 0  # of these, the last ones that ended by a gap
    mismatches: int = 0  # times that all bytes were there and wrong

    def progressed(self) -> Tries:
        """A stream brought bytes: its predecessors are forgiven, mismatches are not."""
        return replace(self, fruitless=0, gaps=0)


@dataclass(frozen=True, slots=True)
class Resume:
    """Open the next stream at the assembler's offset, after delay_s."""

    delay_s: float
    tries: Tries


@dataclass(frozen=True, slots=True)
class StartOver:
    """Discard every byte and fetch from offset 0 with a new assembler."""

    tries: Tries


@dataclass(frozen=True, slots=True)
class Stop:
    """Asking again does not help: discard every byte and raise the error."""

    error: ProtheonError


def after_break(error: ProtheonError, tries: Tries, remaining_s: float) -> Resume | StartOver | Stop:
    """Decide what follows a stream that ended by error, with remaining_s left until the fetch's deadline.

    Whatever passes is waited for: an outage, a chunk that is being cut again, a stream that ended early; but not into the
    deadline, where the reason would be lost. Wrong bytes are fetched once more from the start, in case they broke on the
    way. All else stops: of another generation, say, only the caller can read the new manifest.
    """
    delay_s = min(FIRST_DELAY_S * 2.0 ** min(tries.fruitless, 10), MAX_DELAY_S)  # 2^10: far beyond the cap, below overflow
    match error:
        case ChunkOutdated():
            return Stop(error)
        case ChecksumMismatch():
            return Stop(error) if tries.mismatches else StartOver(Tries(mismatches=1))
        case ChunkGap() if tries.gaps + 1 >= MAX_GAPS:
            return Stop(error)
        case TransientError() | LeadershipLost() if delay_s < remaining_s:
            gaps = tries.gaps + 1 if isinstance(error, ChunkGap) else 0
            return Resume(delay_s, Tries(tries.fruitless + 1, gaps, tries.mismatches))
        case _:
            return Stop(error)
