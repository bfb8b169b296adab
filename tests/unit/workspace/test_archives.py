"""Decompression by content: every format, every start, every damage."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.errors import SourceDamaged
from protheon_dask.workspace.archives import BLOCK_BYTES, Archive, open_archive, sniff

SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00hello"


def zstd_frames(parts: list[bytes]) -> bytes:
    """Frames as different writers make them: with and without size and checksum, streamed, with skippable ones between."""
    frames = [SKIPPABLE]
    for i, part in enumerate(parts):
        compressor = zstandard.ZstdCompressor(level=1 + i % 3, write_checksum=i % 2 == 0, write_content_size=i % 3 != 0)
        stream = compressor.compressobj()
        frames.append(compressor.compress(part) if i % 2 == 0 else stream.compress(part) + stream.flush())
        if i % 3 == 1:
            frames.append(SKIPPABLE)
    return b"".join(frames)


PACK: dict[str, Callable[[list[bytes]], bytes]] = {
    "plain": b"".join,
    "zstd": zstd_frames,
    "gzip": lambda parts: b"".join(gzip.compress(part, 1) for part in parts) or gzip.compress(b""),
    "bzip2": lambda parts: b"".join(bz2.compress(part, 1) for part in parts) or bz2.compress(b""),
    "xz": lambda parts: b"".join(lzma.compress(part, preset=0) for part in parts) or lzma.compress(b""),
}
COMPRESSED = sorted(set(PACK) - {"plain"})


def noise(n_bytes: int, seed: int = 1) -> bytes:
    """Text that does not compress away."""
    return random.Random(seed).randbytes(n_bytes // 2).hex().encode()


class Trickle(io.BytesIO):
    """A file object that gives less than asked for, as sockets do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 3 else size // 3)


def drain(archive: Archive) -> tuple[bytes, SourceDamaged | None]:
    given_out = b""
    try:
        for block in archive:
            assert 0 < len(block) <= BLOCK_BYTES
            given_out += block
    except SourceDamaged as exc:
        return given_out, exc
    return given_out, None


@pytest.mark.parametrize("kind", sorted(PACK))
@given(parts=st.lists(st.binary(max_size=300), max_size=6))
def test_any_bytes_in_any_frames_come_back_from_every_start(kind: str, parts: list[bytes]) -> None:
    packed, raw = PACK[kind](parts), b"".join(parts)
    if kind == "plain" and sniff(raw[:10]) != "plain":
        return
    archive = open_archive(io.BytesIO(packed))
    starts: set[tuple[int, int]] = {(0, 0)}
    given_out = b""
    for block in archive:
        given_out += block
        starts.add(archive.restart)
        assert archive.restart[1] <= archive.raw_offset - len(block)
    assert given_out == raw
    assert (archive.format, archive.raw_offset, archive.intact_raw_offset) == (kind, len(raw), len(raw))
    for start in starts:
        assert drain(open_archive(io.BytesIO(packed), start)) == (raw[start[1] :], None)


@pytest.mark.parametrize("kind", sorted(PACK))
def test_sources_of_several_megabytes_come_back_also_from_short_reads(kind: str) -> None:
    parts = [noise(2_500_000), b"x\n" * 900_000, noise(900_000, seed=2)]
    packed = PACK[kind](parts)
    for fileobj in (io.BytesIO(packed), Trickle(packed)):
        archive = open_archive(fileobj)
        assert drain(archive) == (b"".join(parts), None)
        assert archive.stored_offset == len(packed)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_truncated_file_gives_what_was_whole_and_locates_the_damage(kind: str) -> None:
    parts = [noise(1_500_000), noise(1_500_000, seed=2)]
    first, packed, raw = len(PACK[kind](parts[:1])), PACK[kind](parts), b"".join(parts)
    archive = open_archive(io.BytesIO(packed[: first + (len(packed) - first) // 2]))
    given_out, damage = drain(archive)
    assert damage is not None
    assert raw.startswith(given_out)
    assert len(given_out) >= archive.intact_raw_offset == len(parts[0])
    assert first <= damage.byte_offset <= len(packed)
    assert f"{damage.byte_offset:,}" in str(damage)


@pytest.mark.parametrize("kind", COMPRESSED)
@given(data=st.data())
def test_any_truncation_is_noticed_unless_it_is_between_frames(kind: str, data: st.DataObject) -> None:
    parts = [b"hello\n" * 20, b"world\n" * 30]
    packed, raw = PACK[kind](parts), b"".join(parts)
    length = data.draw(st.integers(7 if kind == "xz" else 10, len(packed) - 1))
    archive = open_archive(io.BytesIO(packed[:length]))
    given_out, damage = drain(archive)
    assert raw.startswith(given_out)
    assert damage is not None or len(given_out) == archive.intact_raw_offset
    assert archive.intact_raw_offset in (0, len(parts[0]), len(raw))


@pytest.mark.parametrize("kind", ["gzip", "bzip2"])
@pytest.mark.parametrize("padding", [0, 70_000])
def test_bytes_after_the_last_member_are_ignored_and_noted_as_the_formats_own_tool_does(kind: str, padding: int) -> None:
    packed = PACK[kind]([b"a\n" * 1000, b"b\n" * 1000]) + bytes(padding)
    rest = b"garbage, as from a tape" * 10_000
    archive = open_archive(io.BytesIO(packed + rest))
    assert drain(archive) == (b"a\n" * 1000 + b"b\n" * 1000, None)
    assert archive.ignored == (len(packed), len(rest))
    assert archive.stored_offset == len(packed + rest)


@pytest.mark.parametrize("kind", ["gzip", "bzip2"])
@pytest.mark.parametrize("between", [b"garbage", b"x" * 200_000])
def test_a_member_after_such_bytes_shows_that_they_are_a_damaged_one(kind: str, between: bytes) -> None:
    first, third = PACK[kind]([b"a\n" * 1000]), PACK[kind]([noise(200_000)])
    archive = open_archive(io.BytesIO(first + between + third))
    given_out, damage = drain(archive)
    assert given_out == b"a\n" * 1000
    assert damage is not None
    assert (damage.byte_offset, archive.ignored) == (len(first), None)


@pytest.mark.parametrize(("kind", "begin"), [("gzip", b"\x1f"), ("bzip2", b"BZ"), ("xz", b"\xfd7z")])
def test_the_beginning_of_a_members_header_is_a_truncation(kind: str, begin: bytes) -> None:
    packed = PACK[kind]([b"a\n" * 1000])
    given_out, damage = drain(open_archive(io.BytesIO(packed + begin)))
    assert given_out == b"a\n" * 1000
    assert damage is not None
    assert damage.byte_offset == len(packed)


@pytest.mark.parametrize("kind", ["zstd", "xz"])
def test_trailing_garbage_is_damage_at_its_offset_where_the_formats_own_tool_refuses_it(kind: str) -> None:
    packed = PACK[kind]([b"a\n" * 1000])
    archive = open_archive(io.BytesIO(packed + b"garbage, as from a tape"))
    given_out, damage = drain(archive)
    assert given_out == b"a\n" * 1000
    assert archive.intact_raw_offset == 2000
    assert damage is not None
    assert damage.byte_offset == len(packed)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_zeros_between_and_after_members_are_padding(kind: str) -> None:
    member = PACK[kind]([b"a\n" * 1000])
    packed = member + bytes(8) + member + bytes(600_000)
    assert drain(open_archive(io.BytesIO(packed))) == (b"a\n" * 2000, None)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_flipped_bit_is_damage_in_its_frame(kind: str) -> None:
    parts = [noise(400_000), noise(400_000, seed=2), noise(400_000, seed=3)]
    packed = bytearray(PACK[kind](parts))
    packed[len(PACK[kind](parts[:2])) + 60_000] ^= 0x40
    archive = open_archive(io.BytesIO(bytes(packed)))
    given_out, damage = drain(archive)
    assert damage is not None
    assert archive.intact_raw_offset == 800_000
    assert given_out[:800_000] == b"".join(parts[:2])


def test_what_is_given_before_a_damage_does_not_depend_on_the_start() -> None:
    for kind in COMPRESSED:
        parts = [noise(700_000), b"x\n", noise(3_000_000, seed=2)]  # of the zstd frames, the first and the third have checksums
        packed = bytearray(PACK[kind](parts))
        packed[len(packed) - 200_000] ^= 0x01
        whole = open_archive(io.BytesIO(bytes(packed)))
        given_out, damage = drain(whole)
        later, same_damage = drain(open_archive(io.BytesIO(bytes(packed)), whole.restart))
        assert damage is not None
        assert same_damage is not None
        assert damage.args == same_damage.args
        assert whole.restart[1] == 700_002
        assert given_out[700_002:] == later


def test_long_windows_are_read() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = noise(3_000_000)
    packed = stream.compress(raw) + stream.flush()
    assert zstandard.get_frame_parameters(packed).window_size == 1 << 28
    assert drain(open_archive(io.BytesIO(packed))) == (raw, None)


@pytest.mark.parametrize(("window_log", "is_wide"), [(27, False), (28, True), (31, True)])
def test_leave_is_asked_for_before_a_window_over_128_mib_whichever_frame_has_it(window_log: int, is_wide: bool) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log, chain_log=6, hash_log=6, enable_ldm=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = zstd_frames([b"a\n" * 10]) + stream.compress(b"b\n" * 10) + stream.flush()
    asked: list[int] = []
    given_out = b"".join(open_archive(io.BytesIO(packed), before_wide=asked.append))
    assert given_out == b"a\n" * 10 + b"b\n" * 10
    assert asked == ([1 << window_log] if is_wide else [])


NO_ROOM = """
import io, resource, sys
from protheon_dask.workspace.archives import open_archive
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    list(open_archive(io.BytesIO(sys.stdin.buffer.read())))
except MemoryError as exc:
    print(exc)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory that allocation respects")
def test_a_window_for_which_there_is_no_memory_is_no_damage() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, chain_log=6, hash_log=6, enable_ldm=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = stream.compress(b"b\n" * 10) + stream.flush()
    done = subprocess.run([sys.executable, "-P", "-c", NO_ROOM], input=packed, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "no memory for a zstd window of 2,147,483,648 bytes"


def test_a_megabyte_of_input_that_expands_a_thousandfold_stays_in_blocks() -> None:
    raw_bytes = 200 << 20
    stream = zstandard.ZstdCompressor(level=1).compressobj()
    packed = b"".join(stream.compress(bytes(1 << 20)) for _ in range(200)) + stream.flush()
    assert len(packed) < 100_000
    total = 0
    for block in open_archive(io.BytesIO(packed)):
        assert len(block) <= BLOCK_BYTES
        total += len(block)
    assert total == raw_bytes


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "plain"),
        (b'{"a":1}\n', "plain"),
        (b"BZhere we", "plain"),
        (b"BZh9 lives", "plain"),
        (b"(\xb5/\xfd", "zstd"),
        (SKIPPABLE, "zstd"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\x00", "xz"),
    ],
)
def test_the_format_is_told_by_content(head: bytes, kind: str) -> None:
    assert sniff(head[:10]) == kind
