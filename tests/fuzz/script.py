"""Bytes read as decisions: what a fuzzer changes, and what a property draws."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Sequence

import zstandard

FORMATS = ("plain", "zstd", "gzip", "bzip2", "xz")


class Script:
    """A reader of decisions that never runs dry: after its end every number is its lowest."""

    def __init__(self, data: bytes) -> None:
        self._data, self._pos = data, 0

    @property
    def is_over(self) -> bool:
        return self._pos >= len(self._data)

    def number(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        n_bytes = ((high - low).bit_length() + 7) // 8
        return low + int.from_bytes(self.take(n_bytes), "little") % (high - low + 1)

    def take(self, n_bytes: int) -> bytes:
        """The next n_bytes, less at the end."""
        self._pos += n_bytes
        return self._data[self._pos - n_bytes : self._pos]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._pos)


def text(script: Script) -> bytes:
    """Some lines: as they stand in the script, or one piece of it repeated, so that small scripts make large sources."""
    kind, piece = script.number(0, 3), script.take(script.number(0, 40))
    if kind < 2:
        return piece
    repeated = (piece or b"\n") * script.number(0, 2_000 if kind == 2 else 20)
    return repeated[:60_000]


def pack(kind: str, part: bytes, script: Script) -> bytes:
    """One frame, member or stream of a format as some writer makes it; its checksum is on."""
    match kind:
        case "zstd":
            return _zstd_frame(part, script)
        case "gzip":
            return _gzip_member(part, script)
        case "bzip2":
            return bz2.compress(part, script.number(1, 9))
        case "xz":
            return _xz_stream(part, script)
        case _:
            return part


def filler(kind: str, script: Script) -> bytes:
    """What a format allows between its frames and is no data: skippable frames, or zeros."""
    if kind == "zstd":
        content = script.take(script.number(0, 30))
        return bytes([0x50 | script.number(0, 15)]) + b"\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    return b"" if kind == "plain" else bytes(4 * script.number(0, 5))


def archive_of(kind: str, parts: Sequence[bytes], script: Script) -> tuple[bytes, list[int], list[int]]:
    """Pack each part into a frame of its own.

    Shapes:     (the archive; where each frame begins in it, and where the last one ends; the same in what is packed).
    """
    packed = filler(kind, script) if kind == "zstd" and script.number(0, 2) == 0 else b""
    stored, raw = [], [0]
    for part in parts:
        stored.append(len(packed))
        packed += pack(kind, part, script)
        raw.append(raw[-1] + len(part))
        if script.number(0, 2) == 0:
            packed += filler(kind, script)
    return packed, [*stored, len(packed)], raw


def _zstd_frame(part: bytes, script: Script) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        script.number(0, 4) - 1 or 1,
        window_log=script.number(10, 27),
        enable_ldm=script.number(0, 1),
        write_checksum=1,
        write_content_size=script.number(0, 1),
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    if script.number(0, 1) == 0:
        return compressor.compress(part)
    stream, at = compressor.compressobj(), script.number(0, 60_000)
    return b"".join(
        (stream.compress(part[:at]), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), stream.compress(part[at:]), stream.flush())
    )


def _gzip_member(part: bytes, script: Script) -> bytes:
    """With and without the optional fields of RFC 1952, 2.3, which no library of Python writes but the file's name."""
    flags = script.number(0, 31) & 0x1E
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\x00\xff"
    if flags & 0x04:
        extra = script.take(script.number(0, 20))
        header += len(extra).to_bytes(2, "little") + extra
    for flag, field in ((0x08, b"name of a file"), (0x10, b"a comment")):
        if flags & flag:
            header += field + b"\0"
    if flags & 0x02:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    stream, at = zlib.compressobj(script.number(0, 9), wbits=-15), script.number(0, 60_000)
    flush = (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH)[script.number(0, 1)]
    body = stream.compress(part[:at]) + stream.flush(flush) + stream.compress(part[at:]) + stream.flush()
    return header + body + zlib.crc32(part).to_bytes(4, "little") + (len(part) & 0xFFFFFFFF).to_bytes(4, "little")


def _xz_stream(part: bytes, script: Script) -> bytes:
    check = (lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256)[script.number(0, 2)]
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << script.number(12, 20)}]
    match script.number(0, 3):
        case 1:
            filters.insert(0, {"id": lzma.FILTER_DELTA, "dist": 4})
        case 2:
            filters.insert(0, {"id": lzma.FILTER_X86})
    return lzma.compress(part, check=check, filters=filters)
