"""Decompress a source, whatever it is called: zstd, gzip, bzip2, xz or plain, told apart by their first bytes.

An archive knows the places where decompression can start anew (frames of zstd, members of gzip, streams of bzip2 and xz,
any block of a plain file), so that a chunk in the middle can be had without reading everything before it.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, ClassVar, Literal, Protocol

import zstandard

from protheon_dask.errors import SourceDamaged

Restart = tuple[int, int]
"""(offset in the source as stored, offset in the decompressed source) of a place where decompression can start."""

Format = Literal["zstd", "gzip", "bzip2", "xz", "plain"]

BLOCK_BYTES = 1 << 20  # decompressed bytes given out at a time, at most
_READ_BYTES = 64 << 10  # stored bytes read at a time; small, so that stored_offset is near what was really consumed
_SNIFF_BYTES = 10  # the longest mark is that of bzip2
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_ZSTD_BLOCKS = 8  # a zstd block holds at most 128 KiB (RFC 8878, 3.1.1.2.4): eight are a block of ours
_ZSTD_WINDOW_BYTES = 1 << 31  # the longest window there is: zstd --ultra --long=31
_XZ_MEMORY_BYTES = (1 << 31) + (1 << 20)  # a dictionary of 2 GiB, as zstd's; xz itself writes none above 1.5 GiB, the format goes to 4
_ZSTD_HEADER_BYTES = 18  # the longest frame header (RFC 8878, 3.1.1.1)
_ZSTD_NO_MEMORY = "not enough memory"  # zstd's ZSTD_error_memory_allocation; the binding has no code, only these words
WIDE_WINDOW_BYTES = 128 << 20  # DESIGN 2: a decompressor keeps as much as its window; of longer ones there is one at a time
_GZIP_MAGIC = b"\x1f\x8b"
_BZIP2_MAGIC = b"BZh"
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # after the magic and a digit: a block, or the end of an empty stream
_XZ_MAGIC = b"\xfd7zXZ\x00"
_GZIP_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")  # RFC 1952, 2.3: deflate, and no reserved flag
_BZIP2_HEADER = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)")
_HEADER_BYTES = 10  # what a header may take of the piece before, at most


class Archive(ABC):
    """Iterate over the decompressed blocks of a source, in order. Single use, not thread-safe.

    Shapes:     a block is never empty, never longer than BLOCK_BYTES and never crosses a start.
    Raises:     SourceDamaged, after what could be decompressed before the damage was given out. MemoryError: no room for the
                decompressor's window.
    Guarantee:  what is given out, and where the blocks end, does not depend on the start chosen. The file object is never
                closed. Memory is a few MiB besides the decompressor's window.
    """

    format: ClassVar[Format]

    def __init__(self, fileobj: BinaryIO, start: Restart, before_wide: Callable[[int], None] | None) -> None:
        self._fileobj, self._before_wide = fileobj, before_wide
        self.restart = start  # the nearest start at or before the block given last
        self.stored_offset, self.raw_offset = start  # consumed, and given out so far, the block given last included
        self.intact_raw_offset = self.raw_offset  # the end of the last frame that was whole
        self.ignored: tuple[int, int] | None = None  # (offset, bytes) of what follows the last frame and is none; known at the end

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks():
            if block:
                self.raw_offset += len(block)
                yield block

    @abstractmethod
    def _blocks(self) -> Iterator[bytes]:
        """Yield blocks, or empty bytes; __iter__ keeps raw_offset."""

    def _begin_frame(self) -> None:
        self.restart = (self.stored_offset, self.raw_offset)

    def _end_frame(self) -> None:
        self.intact_raw_offset = self.raw_offset

    def _damage(self, what: str) -> SourceDamaged:
        return SourceDamaged(f"{self.format} source is damaged at stored byte {self.stored_offset:,}: {what}", self.stored_offset)


class _Plain(Archive):
    """Not compressed: every block is a start."""

    format = "plain"

    def _blocks(self) -> Iterator[bytes]:
        while block := _read_full(self._fileobj, BLOCK_BYTES):
            self._begin_frame()
            self.stored_offset += len(block)
            yield block
            self._end_frame()


class _Zstd(Archive):
    """Frames of RFC 8878, skippable ones too, walked by their block headers.

    The headers say how long each compressed block is. So frames are told apart exactly, no input expands to more than
    BLOCK_BYTES at a time, and what is given out before a damage depends on the frame alone.
    """

    format = "zstd"

    def __init__(self, fileobj: BinaryIO, start: Restart, before_wide: Callable[[int], None] | None) -> None:
        super().__init__(fileobj, start, before_wide)
        self._buffer, self._pos = b"", 0
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)

    def _blocks(self) -> Iterator[bytes]:
        while self._has(1):
            self._has(5)
            magic = self._peek(0, 4)
            if magic == _ZSTD_MAGIC:
                self._begin_frame()
                yield from self._frame()
                self._end_frame()
            elif _is_skippable(magic):
                self._skip(8 + int.from_bytes(self._peek(4, 4), "little") if self._has(8) else 8)
            else:
                raise self._damage("no frame begins here")

    def _frame(self) -> Iterator[bytes]:
        if self._before_wide is not None and (window_bytes := self._window_bytes()) > WIDE_WINDOW_BYTES:
            self._before_wide(window_bytes)
        stream = self._context.decompressobj()
        descriptor = self._peek(4, 1)[0] if self._has(5) else 0
        is_single_segment, checksum_bytes = descriptor >> 5 & 1, 4 * (descriptor >> 2 & 1)
        pending = 5 + (1 - is_single_segment) + (0, 1, 2, 4)[descriptor & 3] + (is_single_segment, 2, 4, 8)[descriptor >> 6]
        n_blocks, is_last = 0, False
        while not is_last:
            end = pending + 3  # RFC 8878, 3.1.1.2: last_block, block_type, block_size in 1, 2 and 21 bits
            if self._has(end):
                header = int.from_bytes(self._peek(pending, 3), "little")
                is_last = bool(header & 1)
                end += (1 if header >> 1 & 3 == 1 else header >> 3) + (checksum_bytes if is_last else 0)
            if not self._has(end):
                yield self._decompress(stream, pending if n_blocks else 0)
                raise self._damage("the file ends within a frame")
            pending, n_blocks = end, n_blocks + 1
            if is_last or n_blocks == _ZSTD_BLOCKS:
                yield self._decompress(stream, pending)
                pending = n_blocks = 0
        if not stream.eof:
            raise self._damage("a frame goes on after its last block")

    def _window_bytes(self) -> int:
        self._has(_ZSTD_HEADER_BYTES)
        with suppress(zstandard.ZstdError):  # a header that is cut off or wrong: decompressing it tells
            return zstandard.get_frame_parameters(self._peek(0, _ZSTD_HEADER_BYTES)).window_size
        return 0

    def _decompress(self, stream: zstandard.ZstdDecompressionObj, n_bytes: int) -> bytes:
        try:
            block = stream.decompress(self._peek(0, n_bytes))
        except zstandard.ZstdError as exc:
            if _ZSTD_NO_MEMORY in str(exc):
                raise MemoryError(f"no memory for a zstd window of {self._window_bytes():,} bytes") from exc
            raise self._damage(str(exc)) from exc
        self._pos += n_bytes
        self.stored_offset += n_bytes
        return block

    def _skip(self, n_bytes: int) -> None:
        while n_bytes:
            if not self._has(1):
                raise self._damage("the file ends within a skippable frame")
            step = min(n_bytes, len(self._buffer) - self._pos)
            self._pos += step
            self.stored_offset += step
            n_bytes -= step

    def _has(self, n_bytes: int) -> bool:
        """Read until n_bytes are in the buffer; False if the file ends before."""
        while (missing := n_bytes - len(self._buffer) + self._pos) > 0:
            data = self._fileobj.read(max(missing, _READ_BYTES))
            if not data:
                return False
            self._buffer, self._pos = self._buffer[self._pos :] + data, 0
        return True

    def _peek(self, start: int, n_bytes: int) -> bytes:
        return self._buffer[self._pos + start : self._pos + start + n_bytes]


class _Stream(Protocol):
    """What bz2, lzma and zlib (through _Inflate) have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams(Archive):
    """Members one after another, each with a decompressor of its own; zeros between and after them are padding.

    What follows a whole member and begins none is ignored where the format's own tool ignores it, and noted. But where another
    member comes after it, it is no rubbish at the end but the damaged header of a member in the middle.
    """

    magic: ClassVar[bytes]
    member_header: ClassVar[re.Pattern[bytes] | None]  # how members begin; None: its tool refuses what follows the last one
    decompressor: ClassVar[type[_Stream]]  # of one member
    errors: ClassVar[tuple[type[Exception], ...]]  # what it raises on damage

    def __init__(self, fileobj: BinaryIO, start: Restart, before_wide: Callable[[int], None] | None) -> None:
        super().__init__(fileobj, start, before_wide)
        self._read_offset = start[0]

    def _blocks(self) -> Iterator[bytes]:
        data, n_members = b"", 0
        while True:
            data = data.lstrip(b"\0")
            while len(data) < len(self.magic) and (more := self._read()):
                data = (data + more).lstrip(b"\0")
            self.stored_offset = self._read_offset - len(data)
            if not data:
                return
            if not data.startswith(self.magic):
                if self.magic.startswith(data):
                    raise self._damage("the file ends within the header of a member")
                if not n_members or self._leads_to_a_member(data):
                    raise self._damage(f"no {self.format} data begin here")
                self.ignored = (self.stored_offset, self._read_offset - self.stored_offset)
                self.stored_offset = self._read_offset
                return
            self._begin_frame()
            stream = self._new_stream()
            yield from self._member(stream, data)
            self._end_frame()
            n_members += 1
            data = stream.unused_data

    def _leads_to_a_member(self, data: bytes) -> bool:
        """Read on to the end, or to a member."""
        if self.member_header is None:
            return True
        while not self.member_header.search(data):
            more = self._read()
            if not more:
                return False
            data = data[-_HEADER_BYTES:] + more
        return True

    def _new_stream(self) -> _Stream:
        return self.decompressor()

    def _member(self, stream: _Stream, data: bytes) -> Iterator[bytes]:
        while not stream.eof:
            try:
                block = stream.decompress(data, BLOCK_BYTES)
            except self.errors as exc:
                raise self._damage(str(exc)) from exc
            yield block
            self.stored_offset = self._read_offset
            data = b""
            if stream.needs_input and not stream.eof:
                data = self._read()
                if not data and not block:
                    raise self._damage("the file ends within a member")

    def _read(self) -> bytes:
        # On one grid, wherever reading started: what a decompressor gives before it meets a damage depends on its input's pieces.
        data = self._fileobj.read(_READ_BYTES - self._read_offset % _READ_BYTES)
        self._read_offset += len(data)
        return data


class _Inflate:
    """zlib's decompressor with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)  # 16 + 15: gzip's header and CRC, the longest window

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


class _Gzip(_Streams):
    format = "gzip"
    magic = _GZIP_MAGIC
    member_header = _GZIP_HEADER
    decompressor = _Inflate
    errors = (zlib.error,)


class _Bzip2(_Streams):
    format = "bzip2"
    magic = _BZIP2_MAGIC
    member_header = _BZIP2_HEADER
    decompressor = bz2.BZ2Decompressor
    errors = (OSError,)


class _Xz(_Streams):
    format = "xz"
    magic = _XZ_MAGIC
    member_header = None
    decompressor = lzma.LZMADecompressor
    errors = (lzma.LZMAError,)

    def _new_stream(self) -> _Stream:
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)


def open_archive(fileobj: BinaryIO, restart: Restart | None = None, before_wide: Callable[[int], None] | None = None) -> Archive:
    """Tell a source's format by its first bytes and decompress it from its beginning, or from a restart.

    Shapes:     fileobj is seekable; restart is one that an archive of the same bytes named. before_wide is called with the window's
                bytes before a frame whose window is over WIDE_WINDOW_BYTES, and may block.
    """
    fileobj.seek(0)
    kind = _ARCHIVES[sniff(_read_full(fileobj, _SNIFF_BYTES))]
    start = restart or (0, 0)
    fileobj.seek(start[0])
    return kind(fileobj, start, before_wide)


class ForwardReader:
    """Spans of a decompressed source in ascending order, in one pass as far as no later start saves some of it.

    before_wide: as open_archive's. Memory is one block and what the archive keeps.
    """

    def __init__(self, source: BinaryIO, before_wide: Callable[[int], None]) -> None:
        self._source, self._before_wide = source, before_wide
        self._archive: Archive | None = None
        self._blocks: Iterator[bytes] = iter(())
        self._block = b""

    def read(self, start: Restart, begin: int, n_bytes: int) -> Iterator[memoryview]:
        """Yield n_bytes from the offset begin on, less at the end of the source; start is a start before begin."""
        if self._archive is None or start[1] > self._archive.raw_offset:
            self._archive = open_archive(self._source, start, self._before_wide)
            self._blocks, self._block = iter(self._archive), b""
        end = begin + n_bytes
        while True:
            offset = self._archive.raw_offset - len(self._block)  # of the block
            if begin < self._archive.raw_offset:
                yield memoryview(self._block)[begin - offset : end - offset]
                begin = min(end, self._archive.raw_offset)
            if begin == end:
                return
            block = next(self._blocks, None)
            if block is None:
                return
            self._block = block


def sniff(head: bytes) -> Format:
    """Tell the format of a source from its first bytes; what is none of the others is plain."""
    if head.startswith(_ZSTD_MAGIC) or _is_skippable(head[:4]):
        return "zstd"
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_XZ_MAGIC):
        return "xz"
    if head.startswith(_BZIP2_MAGIC) and head[3:4].isdigit() and head[4:10] in _BZIP2_BLOCKS:
        return "bzip2"
    return "plain"


def _read_full(fileobj: BinaryIO, n_bytes: int) -> bytes:
    """Read n_bytes, less only at the end: a store may give less than asked for."""
    parts: list[bytes] = []
    while n_bytes and (data := fileobj.read(n_bytes)):
        parts.append(data)
        n_bytes -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_skippable(magic: bytes) -> bool:
    """RFC 8878, 3.1.2: 0x184D2A50 to 0x184D2A5F, little endian."""
    return len(magic) == 4 and magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18"


_ARCHIVES: dict[Format, type[Archive]] = {"zstd": _Zstd, "gzip": _Gzip, "bzip2": _Bzip2, "xz": _Xz, "plain": _Plain}
