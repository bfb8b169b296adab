"""How much memory a splitting process takes of what would need much: lines beyond all measure, windows of 2 GiB."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import zstandard

from protheon_dask.workspace.splitter import ChunkCut, SplitEnded, SplitEvent, Splitter, WideWindow
from tests.integration.workspace.test_splitter import ENDLESS, Events, job_for

MIB = 1 << 20
LINE_BYTES = 5_000 * MIB
MAX_MIB = 128
"""Measured: 79 MiB for zstd, 91 for gzip. 64 of it are the line as far as it may still be one that is loaded (max_line_bytes)."""
WIDE_MIB = 2_048 + MAX_MIB
"""Measured: 2,075 MiB."""


def zstd_of(pieces: Iterable[bytes], window_log: int = 0) -> Iterable[bytes]:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, **({"window_log": window_log} if window_log else {}))
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for piece in pieces:
        yield stream.compress(piece)
    yield stream.flush()


def zeros(n_bytes: int) -> Iterable[bytes]:
    return (bytes(MIB) for _ in range(n_bytes // MIB))


def split_and_measure(source: Path) -> tuple[list[SplitEvent], float]:
    """Split, and return the events and the most memory that was seen, in MiB."""
    events, most = Events(), 0
    splitter = Splitter.start(job_for(source), events)
    process, ended = psutil.Process(splitter.pid), threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(0.02):
            with suppress(psutil.NoSuchProcess):
                most = max(most, process.memory_info().rss)

    watch = threading.Thread(target=look)
    watch.start()
    splitter.grant(ENDLESS)
    told = [events.queue.get(timeout=100)]
    while not isinstance(told[-1], SplitEnded):
        if isinstance(told[-1], WideWindow):
            splitter.allow_wide()
        told.append(events.queue.get(timeout=100))
    ended.set()
    watch.join()
    return told, most / MIB


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["zstd", "gzip"])
def test_a_line_of_5_gb_is_scanned_past_in_constant_memory(packed: str, tmp_path: Path) -> None:
    source = tmp_path / "line"
    if packed == "zstd":
        with source.open("wb") as fileobj:
            fileobj.writelines(zstd_of([b"1\n2\n"]))
            fileobj.writelines(zstd_of(zeros(LINE_BYTES)))
            fileobj.writelines(zstd_of([b"\n3\n"]))
    else:
        member = gzip.compress(bytes(100 * MIB), 1)
        with source.open("wb") as fileobj:
            fileobj.write(gzip.compress(b"1\n2\n"))
            for _ in range(LINE_BYTES // (100 * MIB)):
                fileobj.write(member)
            fileobj.write(gzip.compress(b"\n3\n"))
    [before, line, after, ended], most_mib = split_and_measure(source)
    assert isinstance(line, ChunkCut)
    assert isinstance(before, ChunkCut)
    assert isinstance(after, ChunkCut)
    assert (line.manifest.first_line, line.manifest.n_lines, line.manifest.raw_bytes) == (3, 1, LINE_BYTES + 1)
    assert (line.manifest.oversized, line.raw) == (True, bytes(64 << 10))
    assert (after.manifest.first_line, after.manifest.byte_offset) == (4, 4 + LINE_BYTES + 1)
    assert ended == SplitEnded(3, 4, 4 + LINE_BYTES + 1 + 2)
    assert most_mib < MAX_MIB


@pytest.mark.slow
def test_a_window_of_2_gib_takes_its_2_gib_and_no_more(tmp_path: Path) -> None:
    source = tmp_path / "wide"
    with source.open("wb") as fileobj:
        fileobj.writelines(zstd_of(zeros(3_000 * MIB), window_log=31))
    told, most_mib = split_and_measure(source)
    assert told[0] == WideWindow(1 << 31)
    assert told[-1] == SplitEnded(1, 1, 3_000 * MIB)
    assert 2_000 < most_mib < WIDE_MIB, "it was all used, and only that"
