"""The pool of splitting processes: windows over 128 MiB take turns, whatever the quota, and what cannot be started is told."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from protheon_dask.ledger.runs import PendingSplit
from protheon_dask.run.splitters import FromSplitter, SplitterPool
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitting import ChunkCut, SplitEnded, SplitFailed, WideWindow
from tests.fixtures.web import WebServer

RAW = b"".join(b"%d\n" % n for n in range(50_000))


def split_of(load_id: int, path: str, identified: Path) -> PendingSplit:
    return PendingSplit(load_id, 1, path, identify(str(identified)), 5_000, 1 << 30, 1 << 20, None)


def wide(raw: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, chain_log=6, hash_log=6, enable_ldm=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(raw) + stream.flush()


@pytest.fixture
def events() -> queue.Queue[FromSplitter]:
    return queue.Queue()


@pytest.fixture
def pool(tmp_path: Path, events: queue.Queue[FromSplitter]) -> Iterator[SplitterPool]:
    made = SplitterPool(ChunkStore(tmp_path / "ws", quota_bytes=30_000), 3, events.put)
    yield made
    made.stop_all()


def test_sources_with_a_window_over_128_mib_are_split_one_at_a_time_and_others_beside_them(
    pool: SplitterPool, events: queue.Queue[FromSplitter], tmp_path: Path
) -> None:
    """The quota is smaller than one source's chunks: credit that lies with a waiting splitter must not stop the one that works."""
    for load_id, content in enumerate((wide(RAW), wide(RAW), RAW), start=1):
        (tmp_path / str(load_id)).write_bytes(content)
        pool.start(split_of(load_id, str(tmp_path / str(load_id)), tmp_path / str(load_id)))
    told: list[tuple[int, type]] = []
    cut: dict[int, int] = {1: 0, 2: 0, 3: 0}
    while sum(kind is SplitEnded for _, kind in told) < 3:
        item = events.get(timeout=30)
        load_id = item.split.load_id
        told.append((load_id, type(item.event)))
        if isinstance(item.event, ChunkCut):
            pool.store.add(load_id, item.event.manifest)
            pool.store.delete(load_id, item.event.manifest.first_line)  # loaded at once
            cut[load_id] += item.event.manifest.n_lines
        pool.note(load_id, item.event)
        pool.grant()
    assert cut == {1: 50_000, 2: 50_000, 3: 50_000}
    assert [kind for load_id, kind in told if load_id == 3] == [ChunkCut] * 10 + [SplitEnded]
    of_wide = [item for item in told if item[0] != 3]
    first, second = (load_id for load_id, kind in of_wide if kind is SplitEnded)
    end = of_wide.index((first, SplitEnded))
    assert of_wide[0] == (first, WideWindow)
    assert {item for item in of_wide[:end] if item[0] == second} <= {(second, WideWindow)}, "the second one waited"


def test_a_source_whose_splitter_is_stopped_leaves_its_turn_to_the_next(
    pool: SplitterPool, events: queue.Queue[FromSplitter], tmp_path: Path
) -> None:
    for load_id in (1, 2):
        (tmp_path / str(load_id)).write_bytes(wide(RAW))
        pool.start(split_of(load_id, str(tmp_path / str(load_id)), tmp_path / str(load_id)))
    asked = []
    while len(asked) < 2:
        item = events.get(timeout=30)
        if isinstance(item.event, WideWindow):
            asked.append(item.split.load_id)
        pool.note(item.split.load_id, item.event)
    pool.stop(asked[0])
    pool.grant()
    while (item := events.get(timeout=30)).split.load_id != asked[1]:
        pass
    assert isinstance(item.event, ChunkCut)


def test_a_url_is_read_with_the_password_that_the_ledger_has_not(
    pool: SplitterPool, events: queue.Queue[FromSplitter], tmp_path: Path, web_server: WebServer
) -> None:
    web_server.add("/a", RAW, password="ann:s3cr3t")
    (tmp_path / "a").write_bytes(RAW)
    masked = web_server.url("/a", "ann:***")
    pool.start(split_of(1, masked, tmp_path / "a"))
    item = events.get(timeout=30)
    assert isinstance(item.event, SplitFailed)
    assert (item.event.kind, "type the same command again" in item.event.message) == ("refused", True)
    assert web_server.asked == []
    pool.keep_secret(web_server.url("/a", "ann:s3cr3t"), identify(str(tmp_path / "a")))
    pool.start(split_of(1, masked, tmp_path / "a"))
    assert isinstance(events.get(timeout=30).event, ChunkCut)


def test_where_no_process_can_be_started_the_source_waits(
    pool: SplitterPool, events: queue.Queue[FromSplitter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(RAW)
    monkeypatch.setattr("sys.executable", str(tmp_path / "no interpreter"))
    pool.start(split_of(1, str(tmp_path / "a"), tmp_path / "a"))
    item = events.get_nowait()
    assert isinstance(item.event, SplitFailed)
    assert item.event.kind == "unavailable"
    assert pool.has_room
    assert not pool.is_cutting(1)


def test_a_chunk_is_cut_again_while_its_source_is_still_being_cut(
    pool: SplitterPool, events: queue.Queue[FromSplitter], tmp_path: Path
) -> None:
    """A file of hours does not keep a damaged chunk waiting for its end, and a full workspace does not keep it at all."""
    (tmp_path / "a").write_bytes(RAW)
    split = split_of(1, str(tmp_path / "a"), tmp_path / "a")
    pool.start(split)
    cut = []
    while len(cut) < 3:  # the quota ends the cutting for now: nothing is loaded
        item = events.get(timeout=30)
        assert isinstance(item.event, ChunkCut)
        pool.store.add(1, item.event.manifest)
        pool.note(1, item.event)
        cut.append(item.event.manifest)
        pool.grant()
    pool.start(split, (cut[1],))
    again = events.get(timeout=30)
    while not again.again:
        again = events.get(timeout=30)
    assert isinstance(again.event, ChunkCut)
    assert (again.event.manifest.raw_xxh3, again.event.manifest.generation) == (cut[1].raw_xxh3, 2)
    ended = events.get(timeout=30)
    while not ended.again:
        ended = events.get(timeout=30)
    pool.note(1, ended.event, again=True)
    assert (pool.is_cutting(1), pool.is_cutting(1, again=True)) == (True, False)
