"""Files of refused lines, and long lines that are read from their source once more."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from protheon_dask.errors import SourceChanged
from protheon_dask.model import Identity
from protheon_dask.workspace.cut import LF
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.spool import LongLines, SpoolStore, SpoolWriter

HEAD = 1_000
LINES = [b"short", b"a" * 5_000, b"b" * 3_000_000, b"", b"c" * 70_000, b"last " * 20_000]
OFFSETS = [sum(len(line) + 1 for line in LINES[:n]) for n in range(len(LINES))]
RAW = LF.join(LINES)  # the last has no end


def frames(raw: bytes) -> bytes:
    """Several zstd frames."""
    return b"".join(zstandard.compress(raw[start : start + 100_000]) for start in range(0, len(raw), 100_000))


def read(source: LongLines, n: int, extra: int = 0) -> bytes:
    return b"".join(source.read((0, 0), OFFSETS[n], LINES[n][:HEAD], len(LINES[n]) + extra))


@pytest.mark.parametrize("store", [bytes, frames, zstandard.compress, gzip.compress, bz2.compress, lzma.compress])
def test_lines_are_read_whole_in_one_pass(tmp_path: Path, store: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "source"
    path.write_bytes(store(RAW))
    source = LongLines(str(path), identify(str(path)))
    assert [read(source, n) for n in (0, 1, 2, 4, 5)] == [LINES[n] for n in (0, 1, 2, 4, 5)]
    source.close()


def test_a_later_start_is_taken_and_an_earlier_one_left(tmp_path: Path) -> None:
    path = tmp_path / "source"
    stored = [zstandard.compress(RAW[: OFFSETS[2]]), zstandard.compress(RAW[OFFSETS[2] :])]
    path.write_bytes(b"".join(stored))
    source = LongLines(str(path), identify(str(path)))
    start = (len(stored[0]), OFFSETS[2])
    assert b"".join(source.read(start, OFFSETS[2], LINES[2][:HEAD], len(LINES[2]))) == LINES[2]
    assert source._reader._archive is not None
    assert source._reader._archive.restart == start
    assert read(source, 4) == LINES[4]
    source.close()


def test_a_line_that_was_kept_with_its_end_is_given_without_it(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(RAW)
    source = LongLines(str(path), identify(str(path)))
    assert read(source, 1, extra=1) == LINES[1]
    source.close()


def test_what_is_not_the_line_that_was_refused_is_refused_before_its_first_piece(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(RAW)
    source = LongLines(str(path), identify(str(path)))
    with pytest.raises(SourceChanged, match="the line at byte 6 is not the one that was refused"):
        next(source.read((0, 0), OFFSETS[1], b"x" * HEAD, len(LINES[1])))
    with pytest.raises(SourceChanged, match="is not the one that was refused"):
        next(source.read((0, 0), OFFSETS[5], LINES[5][:HEAD], len(LINES[5]) + 1))  # it ends before
    source.close()
    path.write_bytes(RAW + b"!")
    with pytest.raises(SourceChanged, match="it is not the file that was loaded"):
        LongLines(str(path), identify_of(tmp_path))


def identify_of(directory: Path) -> Identity:
    (directory / "copy").write_bytes(RAW)
    return identify(str(directory / "copy"))


def test_sources_with_wide_windows_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "source"
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True))
    out = io.BytesIO()
    with wide.stream_writer(out, closefd=False) as writer:
        writer.write(RAW)
    path.write_bytes(out.getvalue())
    first, second = (LongLines(str(path), identify(str(path))) for _ in range(2))
    assert read(first, 1) == LINES[1]
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(read(second, 1)), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert answers == []
    first.close()
    waiting.join(10)
    assert answers == [LINES[1]]
    second.close()


def test_a_spool_is_lines_that_any_zstd_reads_and_only_its_owner(tmp_path: Path) -> None:
    store = SpoolStore(tmp_path / "replays")
    store.move_below("a-ledger")
    path = store.path(7, 3, "s3://bucket/some where/reports 1.jsonl.zst")
    assert path.name == "run-7-rejects-of-load-3-reports_1.jsonl.zst.lines.zst"
    with SpoolWriter(path) as spool:
        for line in LINES:
            spool.write(line)
            spool.end_line()
        spool.close()
    with zstandard.open(path, "rb") as file:
        assert file.read() == RAW + LF
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_spool_that_is_not_closed_leaves_nothing(tmp_path: Path) -> None:
    path = SpoolStore(tmp_path).path(7, 3, "a" * 300)
    with SpoolWriter(path) as spool:
        spool.write(b"x" * 3_000_000)
    assert list(tmp_path.iterdir()) == []
