"""The stored form of a chunk and the accounts of the workspace."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.errors import ChecksumMismatch
from protheon_dask.model import ChunkManifest
from protheon_dask.workspace.chunkfile import ChunkStore, ChunkWriter, chunk_path, default_quota_bytes, part_path, read_blocks
from tests.unit.workspace.test_archives import noise


def write(path: Path, pieces: list[bytes]) -> tuple[bytes, bytes]:
    with ChunkWriter(path) as writer:
        for piece in pieces:
            writer.write(piece)
        raw_xxh3 = writer.end()
        writer.commit()
        return raw_xxh3, path.read_bytes()


def manifest(first_line: int, stored_bytes: int, generation: int = 1, *, oversized: bool = False) -> ChunkManifest:
    return ChunkManifest(1, first_line, 1, 0, 1, bytes(16), stored_bytes, bytes(16), generation, oversized=oversized)


@given(sizes=st.lists(st.integers(1, 900_000), max_size=6))
def test_the_file_depends_on_the_bytes_alone_and_reads_back_in_bounded_blocks(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    directory, raw = tmp_path_factory.mktemp("chunk"), noise(1 << 20)[: sum(sizes)] * 3
    pieces, pos = [], 0
    for size in sizes * 3:
        pieces.append(raw[pos : pos + size])
        pos += size
    raw = b"".join(pieces)
    raw_xxh3, stored = write(directory / "a.zst", pieces)
    assert (raw_xxh3, stored) == write(directory / "b.zst", [raw])
    assert raw_xxh3 == xxhash.xxh3_128_digest(raw)
    for form in (stored, bytearray(stored), io.BytesIO(stored)):
        blocks = list(read_blocks(form, raw_xxh3))
        assert b"".join(blocks) == raw
        assert all(len(block) == 1 << 20 for block in blocks[:-1])


def test_any_zstd_reader_reads_a_chunk_file(tmp_path: Path) -> None:
    raw = noise(2_500_000)
    write(tmp_path / "a.zst", [raw])
    with (tmp_path / "a.zst").open("rb") as fileobj:
        assert zstandard.ZstdDecompressor().stream_reader(fileobj, read_across_frames=True).read() == raw


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda stored: stored[:-1],
    "cut at a frame": lambda stored: stored[: len(stored) - (len(stored) - 12) // 2],
    "a prefix cut": lambda stored: stored + stored[:7],
    "a frame twice": lambda stored: stored + stored,
    "a bit of the prefix": lambda stored: bytes([stored[0] ^ 1]) + stored[1:],
    "a bit of the data": lambda stored: stored[:2000] + bytes([stored[2000] ^ 1]) + stored[2001:],
    "nothing": lambda _: b"",
    "a frame that would be huge": lambda stored: stored[:8] + (1 << 31).to_bytes(4, "little") + stored[12:],
    "a frame of zeros without end": lambda _: stored_bomb(),
}


def stored_bomb() -> bytes:
    frame = zstandard.ZstdCompressor().compress(bytes(5 << 20))
    return b"\x50\x2a\x4d\x18\x04\x00\x00\x00" + len(frame).to_bytes(4, "little") + frame


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damage_to_a_stored_chunk_is_a_checksum_mismatch(damage: str, tmp_path: Path) -> None:
    raw_xxh3, stored = write(tmp_path / "a.zst", [noise(100_000)])
    with pytest.raises(ChecksumMismatch):
        list(read_blocks(DAMAGES[damage](stored), raw_xxh3))


def test_before_commit_nothing_has_the_name_and_an_abandoned_writer_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "7" / "a.zst"
    with ChunkWriter(target) as writer:
        writer.write(noise(3 << 20))
        assert not target.exists()
        assert len(list(target.parent.iterdir())) == 1
    assert not list(target.parent.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path / "ws", quota_bytes=1000, parked_cap_bytes=300)


def put(store: ChunkStore, load_id: int, chunk: ChunkManifest) -> Path:
    path = chunk_path(store.directory, load_id, chunk.first_line, chunk.generation)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(chunk.stored_bytes))
    store.add(load_id, chunk)
    return path


def path_of(store: ChunkStore, load_id: int, first_line: int) -> Path | None:
    """Where the store has the chunk's file; None: it must be cut again."""
    known = store.manifest_of(load_id, first_line)
    return None if known is None else chunk_path(store.directory, load_id, first_line, known.generation)


def test_only_live_files_count_to_the_quota_and_parked_ones_have_a_cap(store: ChunkStore) -> None:
    paths = [put(store, 1, manifest(line, 200)) for line in (1, 51, 101)]
    assert (store.live_bytes, store.parked_bytes, store.room_bytes) == (600, 0, 400)
    assert store.park(1, 1)
    assert store.park(1, 1), "again changes nothing"
    assert (store.live_bytes, store.parked_bytes, store.room_bytes) == (400, 200, 600)
    assert not store.park(1, 51), "beyond the cap it is deleted, and cut again later"
    assert (store.live_bytes, store.parked_bytes) == (200, 200)
    assert [path.exists() for path in paths] == [True, False, True]
    assert (path_of(store, 1, 1), path_of(store, 1, 51), path_of(store, 1, 101)) == (paths[0], None, paths[2])
    assert store.unpark(1, 1)
    assert store.unpark(1, 101), "it was never parked"
    assert not store.unpark(1, 51)
    assert not store.park(1, 51)
    assert (store.live_bytes, store.parked_bytes) == (400, 0)


def test_a_full_parked_area_leaves_the_quota_free(store: ChunkStore) -> None:
    for line in range(1, 20):
        put(store, 1, manifest(line, 250))
        store.park(1, line)
    assert (store.room_bytes, store.parked_bytes) == (1000, 250)


def test_deleting_frees_what_was_there_and_is_idempotent(store: ChunkStore) -> None:
    path = put(store, 1, manifest(1, 200))
    put(store, 2, manifest(1, 100))
    put(store, 2, manifest(2, 100))
    store.park(2, 1)
    assert (store.delete(1, 1), store.delete(1, 1), path.exists()) == (200, 0, False)
    assert store.delete_load(2) == 200
    assert (store.live_bytes, store.parked_bytes) == (0, 0)


def test_a_new_generation_replaces_the_old_file(store: ChunkStore) -> None:
    old = put(store, 1, manifest(1, 200))
    store.park(1, 1)
    new = put(store, 1, manifest(1, 210, generation=2))
    assert (old.exists(), path_of(store, 1, 1), store.live_bytes, store.parked_bytes) == (False, new, 210, 0)
    assert store.manifest_of(1, 1) == manifest(1, 210, generation=2)


def test_an_oversized_line_has_no_file_and_costs_nothing(store: ChunkStore) -> None:
    store.add(1, manifest(1, 0, oversized=True))
    assert (store.live_bytes, path_of(store, 1, 1)) == (0, None)


def test_at_start_files_that_match_a_manifest_are_adopted_and_the_rest_deleted(store: ChunkStore, tmp_path: Path) -> None:
    kept, short, old = (put(store, load_id, manifest(1, 200)) for load_id in (1, 2, 3))
    short.write_bytes(bytes(199))
    part = part_path(kept, 99)
    part.write_bytes(b"unfinished")
    foreign = put(store, 9, manifest(1, 5))
    again = ChunkStore(tmp_path / "ws", quota_bytes=1000)
    manifests = [(1, manifest(1, 200)), (2, manifest(1, 200)), (3, manifest(1, 200, generation=2)), (4, manifest(1, 0, oversized=True))]
    assert again.adopt(manifests) == manifests[1:3]
    assert [path.exists() for path in (kept, short, old, part, foreign, foreign.parent)] == [True, *[False] * 5]
    assert (again.live_bytes, path_of(again, 1, 1), path_of(again, 2, 1)) == (200, kept, None)


def test_the_default_quota_is_within_the_disk(tmp_path: Path) -> None:
    assert 0 < default_quota_bytes(tmp_path) <= 20 << 30


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_chunk_files_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = ChunkStore(tmp_path / "workspace", 1000)
        store.move_below("ledger")
        path = chunk_path(store.directory, 1, 1, 0)
        with ChunkWriter(path) as writer:
            writer.write(b"secret")
            writer.end()
            writer.commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, store.directory, tmp_path / "workspace")} == {0o700}
