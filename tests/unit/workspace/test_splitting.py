"""Splitting as a function: the same chunks and manifests of the same bytes, wherever it begins and however it is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from protheon_dask.model import ChunkManifest
from protheon_dask.workspace import splitting
from protheon_dask.workspace.chunkfile import chunk_path, read_blocks
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitEvent, SplitFailed, SplitJob, split
from tests.unit.workspace.test_archives import COMPRESSED, PACK, noise
from tests.unit.workspace.test_cut import TEXT, chunks_by_the_book

ENDLESS = 1 << 60


@pytest.fixture(autouse=True)
def _starts_a_few_bytes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources in these tests are small: keep their frames as starts, which in real ones are a MiB apart."""
    monkeypatch.setattr(splitting, "BLOCK_BYTES", 4)


def job_for(path: Path, directory: Path, **changes: object) -> SplitJob:
    job = SplitJob(
        load_id=7,
        path=str(path),
        directory=str(directory),
        identity=identify(str(path)),
        chunk_lines=3,
        max_chunk_raw_bytes=1 << 20,
        max_line_bytes=1 << 16,
    )
    return msgspec.structs.replace(job, **changes)


def run(job: SplitJob) -> tuple[list[ChunkCut], SplitEnded | SplitFailed]:
    *chunks, last = split(job, Credit(ENDLESS))
    assert all(isinstance(event, ChunkCut) for event in chunks)
    assert isinstance(last, SplitEnded | SplitFailed)
    return [event for event in chunks if isinstance(event, ChunkCut)], last


def raw_of(job: SplitJob, manifest: ChunkManifest) -> bytes:
    """A chunk's raw bytes, held against all that its manifest says."""
    path = chunk_path(Path(job.directory), job.load_id, manifest.first_line, manifest.generation)
    stored = path.read_bytes()
    raw = b"".join(read_blocks(stored, manifest.raw_xxh3))
    assert (len(stored), xxhash.xxh3_128_digest(stored)) == (manifest.stored_bytes, manifest.stored_xxh3)
    assert (len(raw), xxhash.xxh3_128_digest(raw)) == (manifest.raw_bytes, manifest.raw_xxh3)
    return raw


def parts_in(directory: Path) -> Iterator[Path]:
    return directory.rglob("*.part")


@pytest.mark.parametrize("kind", sorted(PACK))
@settings(max_examples=25)
@given(parts=st.lists(TEXT, max_size=5), chunk_lines=st.integers(1, 9), max_raw=st.integers(1, 90), max_line=st.integers(0, 60))
def test_chunks_are_the_sources_lines_and_the_same_from_wherever_it_is_resumed(
    kind: str, parts: list[bytes], chunk_lines: int, max_raw: int, max_line: int
) -> None:
    raw = b"".join(parts)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = directory / "source"
        source.write_bytes(PACK[kind](parts))
        job = job_for(source, directory / "a", chunk_lines=chunk_lines, max_chunk_raw_bytes=max_raw, max_line_bytes=max_line)
        chunks, ended = run(job)
        assert ended == SplitEnded(len(chunks), raw.count(b"\n") + (not raw.endswith(b"\n") and raw != b""), len(raw))
        book = chunks_by_the_book(raw, chunk_lines, max_raw, max_line)
        assert [(c.manifest.n_lines, c.manifest.oversized) for c in chunks] == [(len(lines), oversized) for lines, oversized in book]
        for (lines, oversized), chunk in zip(book, chunks, strict=True):
            data, manifest = b"".join(lines), chunk.manifest
            if oversized:
                assert (chunk.raw, manifest.raw_xxh3, manifest.stored_bytes) == (data, xxhash.xxh3_128_digest(data), 0)
                assert not chunk_path(directory / "a", 7, manifest.first_line, 1).exists()
            else:
                assert raw_of(job, manifest) == data
            assert manifest.restart_raw_offset <= manifest.byte_offset
            assert manifest.restart_line == 1 + raw.count(b"\n", 0, manifest.restart_raw_offset)
        for i, chunk in enumerate(chunks):
            resumed = msgspec.structs.replace(job, directory=str(directory / "b"), resume_after=chunk.manifest)
            assert run(resumed) == (chunks[i + 1 :], ended)
        wanted = tuple(chunk.manifest for chunk in chunks[::2])
        again, _ = run(msgspec.structs.replace(job, wanted=wanted))
        if any(not manifest.oversized for manifest in wanted):
            assert [chunk.manifest for chunk in again] == [replace(m, generation=2) for m in wanted if not m.oversized]
            for chunk in again:
                assert raw_of(job, chunk.manifest) == raw[chunk.manifest.byte_offset :][: chunk.manifest.raw_bytes]
        assert not list(parts_in(directory))


@pytest.mark.parametrize("kind", COMPRESSED)
def test_of_a_damaged_source_whole_chunks_and_the_lines_of_intact_frames_are_cut(kind: str, tmp_path: Path) -> None:
    parts = [b"a\n" * 50 + b"half a", b" line\n" + b"b\n" * 1500 + noise(4000), noise(9000) + b"\nc\n"]
    raw, packed = b"".join(parts), PACK[kind](parts)
    whole = len(PACK[kind](parts[:1]))
    source = tmp_path / "source"
    source.write_bytes(packed[: whole + 30])
    job = job_for(source, tmp_path / "ws", chunk_lines=20)
    chunks, ended = run(job)
    assert isinstance(ended, SplitEnded)
    assert ended.damaged_at is not None
    assert whole <= ended.damaged_at <= whole + 30
    assert str(source) in ended.message
    given_out = b"".join(raw_of(job, chunk.manifest) for chunk in chunks)
    assert raw.startswith(given_out)
    assert given_out.endswith(b"\n")
    assert len(given_out) >= 100
    assert (ended.n_chunks, ended.n_lines, ended.raw_bytes) == (len(chunks), given_out.count(b"\n"), len(given_out))
    for i, chunk in enumerate(chunks):
        assert run(msgspec.structs.replace(job, resume_after=chunk.manifest)) == (chunks[i + 1 :], ended)
    assert not list(parts_in(tmp_path))


def test_trailing_garbage_costs_no_line_and_is_told(tmp_path: Path) -> None:
    source, packed = tmp_path / "source", PACK["gzip"]([b"a\n" * 10])
    source.write_bytes(packed + b"garbage")
    chunks, ended = run(job_for(source, tmp_path / "ws"))
    assert [chunk.manifest.n_lines for chunk in chunks] == [3, 3, 3, 1]
    assert isinstance(ended, SplitEnded)
    assert (ended.damaged_at, ended.message) == (None, "")
    assert f"{source}: whole, but after its last gzip member, at stored byte {len(packed):,}, there are 7 bytes" in ended.notice


def test_another_source_under_the_same_path_is_a_change(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a\n" * 10)
    job = job_for(source, tmp_path / "ws")
    chunks, _ = run(job)
    source.write_bytes(b"b\n" * 10)
    for changed in (job, msgspec.structs.replace(job, wanted=(chunks[0].manifest,))):
        cut, last = run(changed)
        assert not cut
        assert isinstance(last, SplitFailed)
        assert last.kind == "changed"


def test_a_source_that_grows_while_it_is_read_is_a_change_and_its_last_lines_are_not_cut(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a\n" * 10 + b"unfinish")
    events = split(job_for(source, tmp_path / "ws"), Credit(ENDLESS))
    first = next(events)
    with source.open("ab") as fileobj:
        fileobj.write(b"ed\n")
    *others, last = events
    assert isinstance(last, SplitFailed)
    assert last.kind == "changed"
    assert sum(event.manifest.n_lines for event in (first, *others) if isinstance(event, ChunkCut)) == 9
    assert not list(parts_in(tmp_path))


def test_a_wanted_chunk_with_other_bytes_is_a_change(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a\n" * 10)
    job = job_for(source, tmp_path / "ws")
    chunks, _ = run(job)
    other = replace(chunks[2].manifest, raw_xxh3=bytes(16))
    cut, last = run(msgspec.structs.replace(job, wanted=(other, chunks[1].manifest)))
    assert [chunk.manifest.chunk_no for chunk in cut] == [2]
    assert isinstance(last, SplitFailed)
    assert last.kind == "changed"
    assert "lines 7 to 9" in last.message
    assert not list(parts_in(tmp_path))


def test_a_source_that_is_gone_is_the_operators_and_a_workspace_that_takes_no_files_is_unavailable(tmp_path: Path) -> None:
    source, blocked = tmp_path / "source", tmp_path / "blocked"
    source.write_bytes(b"a\n" * 10)
    blocked.write_bytes(b"a file where a directory should be")
    job = job_for(source, blocked)
    for failing, kind in ((job, "unavailable"), (msgspec.structs.replace(job, path=str(tmp_path / "gone")), "refused")):
        _, last = run(failing)
        assert isinstance(last, SplitFailed)
        assert last.kind == kind


def test_an_overlong_line_keeps_its_first_64_kib_and_the_checksum_of_all(tmp_path: Path) -> None:
    long = noise(3_000_000) + b"\n"
    source = tmp_path / "source"
    source.write_bytes(b"a\n" + long + b"b\n")
    [before, oversized, after], _ = run(job_for(source, tmp_path / "ws", max_line_bytes=1 << 20))
    assert (before.manifest.n_lines, after.manifest.first_line, after.manifest.byte_offset) == (1, 3, 2 + len(long))
    assert oversized.raw == long[: 64 << 10]
    assert oversized.manifest.raw_xxh3 == xxhash.xxh3_128_digest(long)
    assert (oversized.manifest.raw_bytes, oversized.manifest.stored_bytes, oversized.manifest.n_lines) == (len(long), 0, 1)


def test_a_closed_iterator_leaves_no_temporary_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(noise(5_000_000).replace(b"a", b"\n"))
    events: Iterator[SplitEvent] = split(job_for(source, tmp_path / "ws", chunk_lines=100_000), Credit(ENDLESS))
    next(events)
    events.close()  # type: ignore[attr-defined]  # split is a generator
    assert len(list((tmp_path / "ws").rglob("*.zst"))) == 1
    assert not list(parts_in(tmp_path))
