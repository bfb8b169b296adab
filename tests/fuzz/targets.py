"""What the fuzzer runs: one call an input, an AssertionError or a foreign exception is a finding.

An input's first byte chooses what it is about; the rest is an archive as it stands, or the script of one that is made,
damaged and cut, or of a stream of messages.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import re
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import msgspec
import xxhash
import zstandard

from protheon_dask.broker.chunks import ChunkAssembler, Resume, StartOver, Stop, Tries, WantedChunk, after_break
from protheon_dask.errors import BrokerUnavailable, ChecksumMismatch, ChunkGap, ChunkOutdated, ProtheonError, SourceDamaged
from protheon_dask.workspace.archives import BLOCK_BYTES, Restart, open_archive
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitting import HEAD_BYTES, ChunkCut, Credit, SplitEnded, SplitJob, split
from tests.fuzz.script import FORMATS, Script, archive_of, text
from tests.properties.oracle import lines_of, raw_of_chunk_file

MOST_BYTES = 64 << 20
"""Decompressed bytes after which an input has shown what it does: bombs are cut off here."""


def run(data: bytes, directory: Path) -> None:
    """Run the input's target; directory is for files, and empty again afterwards."""
    targets: tuple[Callable[[bytes, Path], None], ...] = (archive_as_it_stands, archive_with_a_damage, cut_with_a_damage, stream)
    targets[data[0] % len(targets) if data else 0](data[1:], directory)


def archive_as_it_stands(data: bytes, directory: Path) -> None:  # it needs no file
    """Any bytes: what comes out is what the reference decompressor says, and nothing but SourceDamaged is raised."""
    try:
        whole, damage, restart = _drain(data, (0, 0))
    except MemoryError:  # of a window that is larger than what is left
        with contextlib.suppress(MemoryError):
            _reference(_format(data), data)
            raise AssertionError("the reference needs less memory") from None
        return
    if len(whole) >= MOST_BYTES:
        return
    again, same_damage, _ = _drain(data, restart)
    assert again == whole[restart[1] :]
    assert (damage is None) == (same_damage is None)
    reference = _reference(_format(data), data)
    if damage is None:
        assert reference in (None, whole), "no damage is told, and the bytes are not those of the reference"
    else:
        assert damage.byte_offset <= len(data)
        assert reference is None, f"the reference reads what is told to be damaged: {damage}"


def archive_with_a_damage(data: bytes, directory: Path) -> None:  # it needs no file
    """A good archive with something done to it: frames that are whole before the damage come back, and nothing vouches for more."""
    script = Script(data)
    kind = FORMATS[1 + script.number(0, len(FORMATS) - 2)]
    parts = [text(script) for _ in range(script.number(1, 4))]
    good, stored_ends, raw_ends = archive_of(kind, parts, script)
    raw = b"".join(parts)
    bad, at, undetectable = damaged(good, script)
    given_out, damage, _ = _drain(bad, (0, 0))
    pairs = zip(stored_ends, raw_ends, strict=True)
    untouched = max((raw_end for stored_end, raw_end in pairs if stored_end <= at), default=0)
    if _format(bad) == kind:
        assert given_out[:untouched] == raw[:untouched]
        if damage is None and not undetectable:
            assert raw.startswith(given_out), "a checksum was not looked at"


def damaged(good: bytes, script: Script) -> tuple[bytes, int, bool]:
    """Do one thing to an archive.

    Shapes:     (what it is then; the offset up to which it is as it was; whether it may be another good archive now: whole
                frames may have come or gone, or been hidden by a skippable frame that became longer).
    """
    at = script.number(0, len(good))
    match script.number(0, 4):
        case 0:
            return good[:at], at, False
        case 1:
            flipped = good[at : at + 1] and bytes([good[at] ^ 1 << script.number(0, 7)])
            return good[:at] + flipped + good[at + 1 :], at, b"\x2a\x4d\x18" in good
        case 2:
            return good[:at] + script.take(script.number(1, 20)) + good[at:], at, True
        case 3:
            return good[:at] + good[at + script.number(1, 20) :], at, True
        case _:
            return good + script.rest(), len(good), True


def cut_with_a_damage(data: bytes, directory: Path) -> None:
    """Split a source, good or damaged; resume it somewhere, cut some chunks again: the same chunks, of whole lines, in order."""
    script = Script(data)
    kind = FORMATS[script.number(0, len(FORMATS) - 1)]
    parts = [text(script) for _ in range(script.number(0, 4))]
    good, _, _ = archive_of(kind, parts, script)
    is_bad = script.number(0, 2) == 0
    n_bytes, n_lines = sum(map(len, parts)), sum(part.count(b"\n") for part in parts)
    limits = {  # some dozens of chunks at most: each costs three files
        "chunk_lines": max(script.number(1, 2_000), n_lines // 20),
        "max_chunk_raw_bytes": max(script.number(1, 70_000), n_bytes // 20),
    }
    max_line_bytes = script.number(0, 200)
    resume_at, wanted_from = script.number(0, 30), script.number(0, 5)
    source = directory / "source"
    try:
        source.write_bytes(damaged(good, script)[0] if is_bad else good)
        job = SplitJob(
            load_id=1, path=str(source), directory=str(directory), identity=identify(str(source)), max_line_bytes=max_line_bytes, **limits
        )
        chunks, ended = _split(job)
        for before, chunk in pairwise(chunks):
            assert before.raw.endswith(b"\n") or len(before.raw) == HEAD_BYTES or _raw(directory, before).endswith(b"\n")
            assert chunk.manifest.first_line == before.manifest.first_line + before.manifest.n_lines
            assert chunk.manifest.byte_offset == before.manifest.byte_offset + before.manifest.raw_bytes
        for chunk in chunks:
            assert chunk.manifest.n_lines == len(lines_of(_raw(directory, chunk)))
        n_lines, raw_bytes = sum(c.manifest.n_lines for c in chunks), sum(c.manifest.raw_bytes for c in chunks)
        assert (ended.n_chunks, ended.n_lines, ended.raw_bytes) == (len(chunks), n_lines, raw_bytes)
        if not is_bad and kind == _format(good):
            raw = b"".join(parts)
            assert [raw[c.manifest.byte_offset :][: c.manifest.raw_bytes] for c in chunks if not c.raw] == [
                _raw(directory, c) for c in chunks if not c.raw
            ]
            assert (raw_bytes, ended.damaged_at) == (len(raw), None)
        if chunks:
            after = chunks[resume_at % len(chunks)]
            rest = _split(msgspec.structs.replace(job, resume_after=after.manifest))
            assert rest == (chunks[resume_at % len(chunks) + 1 :], ended)
        wanted = tuple(chunk.manifest for chunk in chunks[wanted_from::2] if not chunk.manifest.oversized)
        if wanted:
            again, _ = _split(msgspec.structs.replace(job, wanted=wanted))
            assert [chunk.manifest.raw_xxh3 for chunk in again] == [manifest.raw_xxh3 for manifest in wanted]
    finally:
        for path in directory.rglob("*"):
            if path.is_file():
                path.unlink()


def stream(data: bytes, directory: Path) -> None:  # it needs no file
    """Messages in any order, doubled, cut short, of another form of the chunk, over streams that break: the chunk or an error."""
    script = Script(data)
    chunk, other = (script.take(script.number(0, 60)) for _ in range(2))
    wanted = WantedChunk(1, 1, len(chunk), xxhash.xxh3_128_digest(chunk))
    assembler, taken, tries, n_streams = ChunkAssembler(wanted), b"", Tries(), 0
    while not script.is_over:
        error: ProtheonError
        match script.number(0, 3):
            case 0 | 1:  # a message: of this form or another, where it belongs or elsewhere
                body = (chunk, other)[script.number(0, 7) == 0]
                offset = assembler.offset_bytes if script.number(0, 3) else script.number(0, 70)
                message = body[offset : offset + script.number(0, 30)]
                before = assembler.offset_bytes
                try:
                    taken += assembler.feed(offset, message)
                    assert offset == before
                    tries = tries.progressed() if message else tries
                    continue
                except ChunkGap as exc:
                    error = exc
                    assert assembler.offset_bytes == before, "what was refused was taken"
            case 2:
                try:
                    assembler.finish()
                except (ChunkGap, ChecksumMismatch) as exc:
                    assert taken != chunk
                    error = exc
                else:
                    assert taken == chunk, "another chunk passed for this one"
                    return
            case _:
                error = (BrokerUnavailable("away"), ChunkOutdated("2"))[script.number(0, 9) == 0]
        assert len(taken) == assembler.offset_bytes <= len(chunk)
        n_streams += 1
        match after_break(error, tries, 60.0):
            case Resume(delay_s=delay_s, tries=tries):
                assert 0.0 < delay_s < 60.0
            case StartOver(tries=tries):
                assembler, taken = ChunkAssembler(wanted), b""
            case Stop(error=told):
                assert told is error
                return


def _drain(data: bytes, start: Restart) -> tuple[bytes, SourceDamaged | None, Restart]:
    """Decompress: (what came, the damage, the last start)."""
    archive = open_archive(io.BytesIO(data), start)
    parts, n_bytes = [], start[1]
    try:
        for block in archive:
            assert 0 < len(block) <= BLOCK_BYTES
            parts.append(block)
            n_bytes += len(block)
            assert archive.raw_offset == n_bytes
            assert archive.restart[1] <= n_bytes - len(block)
            assert archive.intact_raw_offset <= n_bytes
            if n_bytes >= MOST_BYTES:
                break
    except SourceDamaged as exc:
        return b"".join(parts), SourceDamaged(*exc.args), archive.restart  # without the traceback, which keeps the window
    return b"".join(parts), None, archive.restart


def _split(job: SplitJob) -> tuple[list[ChunkCut], SplitEnded]:
    *chunks, ended = split(job, Credit(1 << 60))
    assert isinstance(ended, SplitEnded), ended
    return [chunk for chunk in chunks if isinstance(chunk, ChunkCut)], ended


def _raw(directory: Path, chunk: ChunkCut) -> bytes:
    manifest = chunk.manifest
    if manifest.oversized:
        assert len(chunk.raw) == min(manifest.raw_bytes, HEAD_BYTES)
        return chunk.raw
    return raw_of_chunk_file(directory, 1, manifest.first_line, manifest.generation)


def _format(data: bytes) -> str:
    return open_archive(io.BytesIO(data)).format


class _Reference(Protocol):
    """What bz2, lzma, zlib and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _reference(kind: str, data: bytes) -> bytes | None:
    """Decompress all frames, each in one call of the library; None: one of them is damaged, or something else is between."""
    if kind == "plain":
        return data
    raw = b""
    while data := data if kind == "zstd" else data.lstrip(b"\0"):
        if kind == "zstd" and data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50:
            end = 8 + int.from_bytes(data[4:8], "little")
            if len(data) < max(8, end):
                return None
            data = data[end:]
            continue
        make, error = _REFERENCES[kind]
        reference = make()
        try:
            raw += reference.decompress(data)
        except error:
            return None
        if not reference.eof:
            return None
        data = reference.unused_data
        if kind in _MEMBERS and not _begins(data.lstrip(b"\0"), _MAGIC[kind]) and not _MEMBERS[kind].search(data):
            return raw  # what follows the last member is rubbish, as the formats' own tools have it
    return raw


def _begins(data: bytes, magic: bytes) -> bool:
    return data.startswith(magic[: max(1, len(data))])


_MEMBERS = {"gzip": re.compile(rb"\x1f\x8b\x08[\0-\x1f]"), "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")}
_MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh"}
_REFERENCES: dict[str, tuple[Callable[[], _Reference], type[Exception]]] = {
    "zstd": (lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(), zstandard.ZstdError),
    "gzip": (lambda: zlib.decompressobj(wbits=31), zlib.error),
    "bzip2": (bz2.BZ2Decompressor, OSError),
    "xz": (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=(1 << 31) + (1 << 20)), lzma.LZMAError),
}

__all__ = ["MOST_BYTES", "run"]
