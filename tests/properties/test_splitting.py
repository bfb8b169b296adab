"""Splitting, for any bytes, any compression, any chunk and any block size, held against a rule that knows nothing of the product."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.model import ChunkManifest
from protheon_dask.workspace.splitting import HEAD_BYTES, ChunkCut, Credit, SplitJob, split
from tests.properties.blocks import blocks_of
from tests.properties.effort import examples
from tests.properties.oracle import lines_of, raw_of_chunk_file
from tests.properties.sources import BLOCKS, COMPRESSED, LIMITS, SOURCES, Source, after, cut, job_for

pytestmark = pytest.mark.timeout(900)  # with the thorough profile


@contextmanager
def stored(content: bytes, limits: dict[str, int]) -> Iterator[SplitJob]:
    """The job of a source with these bytes, in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "source"
        path.write_bytes(content)
        yield job_for(str(path), str(Path(name) / "chunks"), limits)


def raw_of(job: SplitJob, chunk: ChunkCut, directory: str | None = None) -> bytes:
    manifest = chunk.manifest
    if manifest.oversized:
        return chunk.raw
    return raw_of_chunk_file(Path(directory or job.directory), job.load_id, manifest.first_line, manifest.generation)


def without_starts(manifest: ChunkManifest) -> ChunkManifest:
    """What is left when the sizes of blocks change: these decide where starts are kept."""
    return replace(manifest, restart_stored_offset=0, restart_raw_offset=0, restart_line=1)


def below(directory: str) -> dict[str, bytes]:
    """Every file below a directory, temporary ones too."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def none_left_out_of(source: Source, job: SplitJob, chunks: list[ChunkCut]) -> None:
    """Each line of the source is in one chunk, each chunk within its limits and no smaller than they ask for."""
    lines, line_no, offset = lines_of(source.raw), 1, 0
    for chunk_no, chunk in enumerate(chunks, start=1):
        manifest = chunk.manifest
        mine = lines[line_no - 1 : line_no - 1 + manifest.n_lines]
        raw = b"".join(mine)
        assert (manifest.chunk_no, manifest.first_line, manifest.byte_offset) == (chunk_no, line_no, offset)
        assert (manifest.raw_bytes, manifest.raw_xxh3) == (len(raw), xxhash.xxh3_128_digest(raw))
        assert raw_of(job, chunk) == (raw[:HEAD_BYTES] if manifest.oversized else raw)
        too_long = [len(line.removesuffix(b"\n")) > job.max_line_bytes for line in mine]
        assert too_long == [True] if manifest.oversized else not any(too_long)
        assert len(mine) <= job.chunk_lines
        assert len(raw) <= job.max_chunk_raw_bytes or len(mine) == 1
        line_no, offset = line_no + len(mine), offset + len(raw)
        if line_no <= len(lines) and not manifest.oversized:
            next_line = lines[line_no - 1]
            is_full = len(mine) == job.chunk_lines or len(raw) + len(next_line) > job.max_chunk_raw_bytes
            assert is_full or len(next_line.removesuffix(b"\n")) > job.max_line_bytes, "it was cut too early"
    assert (line_no, offset) == (len(lines) + 1, len(source.raw))


@examples(120)
@given(SOURCES, LIMITS, BLOCKS)
def test_every_line_of_a_source_is_in_one_chunk(source: Source, limits: dict[str, int], blocks: tuple[int, int, int]) -> None:
    with stored(source.packed, limits) as job, blocks_of(*blocks):
        chunks, ended = cut(job)
        assert (ended.n_chunks, ended.n_lines, ended.raw_bytes) == (len(chunks), len(lines_of(source.raw)), len(source.raw))
        assert ended.damaged_at is None
        none_left_out_of(source, job, chunks)


@examples(40)
@given(SOURCES, LIMITS, BLOCKS, BLOCKS)
def test_split_twice_is_split_once_also_in_blocks_of_other_sizes(
    source: Source, limits: dict[str, int], blocks: tuple[int, int, int], others: tuple[int, int, int]
) -> None:
    with stored(source.packed, limits) as job:
        again = msgspec.structs.replace(job, directory=job.directory + "-again")
        with blocks_of(*blocks):
            chunks, ended = cut(job)
            assert cut(again) == (chunks, ended)
            assert below(again.directory) == below(job.directory)
            assert cut(job) == (chunks, ended), "over its own files"
        with blocks_of(*others):
            differently, same_end = cut(again)
        assert same_end == ended
        assert [without_starts(chunk.manifest) for chunk in differently] == [without_starts(chunk.manifest) for chunk in chunks]
        assert below(again.directory) == below(job.directory)


@examples(60)
@given(SOURCES, LIMITS, BLOCKS, st.lists(st.integers(0, 6), max_size=6))
def test_interrupted_after_any_events_and_resumed_is_the_same(
    source: Source, limits: dict[str, int], blocks: tuple[int, int, int], taken: list[int]
) -> None:
    with stored(source.packed, limits) as job, blocks_of(*blocks):
        expected, ended = cut(job)
        other, so_far = job.directory + "-resumed", list[ChunkCut]()
        for n_events in taken:
            events = split(after(job, so_far[-1] if so_far else None, other), Credit(1 << 60))
            so_far += [event for event, _ in zip(events, range(n_events), strict=False) if isinstance(event, ChunkCut)]
            events.close()  # type: ignore[attr-defined]  # a generator: its process ends here, in the middle of the next chunk
        rest, last = cut(after(job, so_far[-1] if so_far else None, other))
        assert (so_far + rest, last) == (expected, ended)
        assert below(other) == below(job.directory)


@examples(60)
@given(SOURCES, LIMITS, BLOCKS, st.data())
def test_any_chunks_cut_again_have_the_same_raw_bytes(
    source: Source, limits: dict[str, int], blocks: tuple[int, int, int], data: st.DataObject
) -> None:
    with stored(source.packed, limits) as job, blocks_of(*blocks):
        chunks, _ = cut(job)
        wanted = data.draw(st.lists(st.sampled_from(chunks), unique_by=id) if chunks else st.just([]))
        with_file = sorted((chunk for chunk in wanted if not chunk.manifest.oversized), key=lambda chunk: chunk.manifest.chunk_no)
        if not with_file:
            return  # nothing wanted is the job of cutting everything
        before = [raw_of(job, chunk) for chunk in with_file]
        again, ended = cut(msgspec.structs.replace(job, wanted=tuple(chunk.manifest for chunk in wanted)))
        assert [chunk.manifest for chunk in again] == [replace(chunk.manifest, generation=2) for chunk in with_file]
        assert [raw_of(job, chunk) for chunk in again] == before
        assert ended.n_chunks == len(with_file)


@examples(100)
@given(COMPRESSED, LIMITS, BLOCKS, st.data())
def test_truncated_at_any_byte_gives_whole_chunks_and_lines_from_the_beginning(
    source: Source, limits: dict[str, int], blocks: tuple[int, int, int], data: st.DataObject
) -> None:
    length = data.draw(st.integers(10, max(10, len(source.packed) - 1)))
    with stored(source.packed[:length], limits) as job, blocks_of(*blocks):
        chunks, ended = cut(job)
        n_bytes = ended.raw_bytes
        assert sum(chunk.manifest.raw_bytes for chunk in chunks) == n_bytes
        none_left_out_of(replace(source, raw=source.raw[:n_bytes]), job, chunks)
        if ended.damaged_at is None:
            assert n_bytes in source.raw_starts, "no damage is told, though a frame is missing a part"
        else:
            assert 0 <= ended.damaged_at <= length
            assert n_bytes == 0 or source.raw[n_bytes - 1 : n_bytes] == b"\n"
        vouched = source.raw[: source.whole_before(length)]
        if chunks[-1:] and chunks[-1].manifest.oversized:
            return  # of an overlong line at the end it cannot be said whether its end was missing
        last_whole_line = vouched.rfind(b"\n") + 1
        assert n_bytes >= last_whole_line, "whole lines of whole frames were left out"


@examples(60)
@given(COMPRESSED, LIMITS, BLOCKS, st.data())
def test_a_flipped_byte_costs_nothing_of_the_frames_before_it(
    source: Source, limits: dict[str, int], blocks: tuple[int, int, int], data: st.DataObject
) -> None:
    at = data.draw(st.integers(10, max(10, len(source.packed) - 1)))
    flipped = bytes([source.packed[at] ^ data.draw(st.integers(1, 255))]) if at < len(source.packed) else b""
    with stored(source.packed[:at] + flipped + source.packed[at + 1 :], limits) as job, blocks_of(*blocks):
        chunks, ended = cut(job)
        vouched = source.whole_before(at)
        lines, line_no = lines_of(source.raw), 1
        for chunk in chunks:
            manifest = chunk.manifest
            end = manifest.byte_offset + manifest.raw_bytes
            if end <= vouched and source.raw[:end].endswith(b"\n"):  # the header that was hit may end the source: rubbish at its end
                raw = b"".join(lines[line_no - 1 : line_no - 1 + manifest.n_lines])
                assert manifest.raw_xxh3 == xxhash.xxh3_128_digest(raw)
            line_no += manifest.n_lines
        if ended.damaged_at is not None:
            assert ended.raw_bytes >= source.raw[:vouched].rfind(b"\n") + 1
            assert 0 <= ended.damaged_at <= len(source.packed)
        rest = after(job, chunks[0], job.directory + "-resumed") if chunks else job
        assert cut(rest) == (chunks[1:] if chunks else [], ended)
