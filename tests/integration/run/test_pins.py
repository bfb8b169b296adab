"""Chunks for others than runs: cut by real processes, kept in a real directory, read over real gRPC. No PostgreSQL, no Dask."""

from __future__ import annotations

import bz2
import gc
import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import pytest
import xxhash
import zstandard

from protheon_dask.broker.calls import POOL_THREADS
from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.pin_wire import PinRequest
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, NotFound, SourceChanged, WorkspaceFull
from protheon_dask.run import collections
from protheon_dask.run.collections import Chunks, pin_chunks
from protheon_dask.run.master import Master
from protheon_dask.run.pins import CUTTERS, PinDesk
from protheon_dask.workspace.pins import GRACE_S, UNREAD_S, PinStore
from tests.fixtures.cluster import wait_until

TTL_S = 60.0
MANY = b"".join(b'{"n": %d, "salt": "%s"}\n' % (n, xxhash.xxh64_hexdigest(b"%d" % n).encode() * 4) for n in range(20_000))
MANY_LINES = MANY.splitlines()


class Bench:
    """A broker of pins in this process, and what asks it."""

    def __init__(self, directory: Path, stack: ExitStack, **settings: Any) -> None:
        self.directory, self.stack, self.settings = directory, stack, Settings(**settings)
        self.quota_bytes = 1 << 30
        self.start()

    def start(self) -> None:
        """A broker with the workspace of the one before."""
        self.block = self.stack.enter_context(ExitStack())
        self.store = PinStore(self.directory / "workspace" / "pins" / "a-ledger", self.quota_bytes)
        self.desk = self.block.enter_context(PinDesk(self.settings, self.store, lambda: 2))
        server = self.block.enter_context(BrokerThread(None, None, "127.0.0.1", 0, pins=self.desk))  # type: ignore[arg-type]  # none comes
        self.master = self.block.enter_context(Master(f"127.0.0.1:{server.port}"))
        self.client = self.block.enter_context(BrokerClient(f"127.0.0.1:{server.port}"))

    def restart(self, **settings: Any) -> None:
        self.block.close()
        self.settings = Settings(**settings) if settings else self.settings
        self.start()

    def source(self, content: bytes = MANY, name: str = "lines.jsonl") -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def chunks(self, *paths: str, **options: Any) -> Chunks:
        return pin_chunks(self.master, paths, **{"chunk_lines": 1_000, "ttl_s": TTL_S, **options})

    def pin(self, *paths: str, pin_id: str = "", **options: Any) -> Iterator[PinnedChunk]:
        given = {"chunk_lines": 1_000, "ttl_s": TTL_S, **options}
        return self.client.pin(PinRequest(pin_id or uuid4().hex, paths, given["ttl_s"], given["chunk_lines"], given.get("limit", 0)))

    def files(self) -> list[Path]:
        return sorted(self.store.directory.glob("*/*/*.zst"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with ExitStack() as stack:
        yield lambda **settings: Bench(tmp_path, stack, **settings)


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def lines_of(chunks: Any) -> list[bytes]:
    return [line for part in dask.compute(*chunks, scheduler="threads") for line in part]


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(bytes, id="plain"),
        pytest.param(zstandard.ZstdCompressor().compress, id="zstd"),
        pytest.param(gzip.compress, id="gzip", marks=pytest.mark.slow),
        pytest.param(bz2.compress, id="bzip2", marks=pytest.mark.slow),
    ],
)
def test_every_line_of_a_source_comes_once_and_in_its_order(bench: Bench, pack: Callable[[bytes], bytes]) -> None:
    chunks = bench.chunks(bench.source(pack(MANY)))
    assert len(chunks) == 20
    assert [chunk.first_line for chunk in chunks.pinned] == list(range(1, 20_001, 1_000))
    assert lines_of(chunks) == MANY_LINES


def test_lines_are_those_that_a_pipeline_gets(bench: Bench) -> None:
    """No LF, one CR less, no byte order mark at the first line, and no blank lines."""
    chunks = bench.chunks(bench.source(b"\xef\xbb\xbfone\r\n\n  \t\r\ntwo\r\r\n\xef\xbb\xbfthree\nlast"), chunk_lines=2)
    assert lines_of(chunks) == [b"one", b"two\r", b"\xef\xbb\xbfthree", b"last"]


def test_several_sources_come_in_the_order_in_which_they_were_named(bench: Bench) -> None:
    paths = [bench.source(b"b1\nb2\n", "b.txt"), bench.source(b"a1\na2\n", "a.txt")]
    chunks = bench.chunks(*paths, chunk_lines=1)
    assert lines_of(chunks) == [b"b1", b"b2", b"a1", b"a2"]
    assert repr(chunks) == "4 chunks: 4 lines, 12 B, of 2 files"


def test_compute_of_the_whole_list_gives_a_list_of_lists(bench: Bench) -> None:
    chunks = bench.chunks(bench.source(b"1\n2\n3\n"), chunk_lines=2)
    assert dask.compute(chunks, scheduler="threads") == ([[b"1", b"2"], [b"3"]],)
    assert chunks.compute(scheduler="threads") == [[b"1", b"2"], [b"3"]]
    assert dask.delayed(lambda parts: [len(part) for part in parts])(list(chunks)).compute(scheduler="threads") == [2, 1]


def test_a_limit_cuts_no_more_than_was_asked_for(bench: Bench) -> None:
    chunks = bench.chunks(bench.source(), bench.source(name="other.jsonl"), limit=3)
    assert lines_of(chunks) == MANY_LINES[:3_000]
    assert len(bench.files()) == 3


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -1}, {"chunk_lines": 0}])
def test_none_of_the_chunks_is_no_way_to_say_all_of_them(bench: Bench, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"give .*1 or more"):
        bench.chunks(bench.source(), **options)


def test_an_empty_file_has_no_chunk_and_is_said(bench: Bench) -> None:
    chunks = bench.chunks(path := bench.source(b""))
    assert (list(chunks), chunks.notices) == ([], (f"{path}: it has no line",))


def test_a_line_beyond_max_line_bytes_is_left_out_and_said(make: Callable[..., Bench]) -> None:
    bench = make(max_line_bytes=1_000)
    chunks = bench.chunks(path := bench.source(gzip.compress(b"before\n" + b"x" * 100_000 + b"\nafter\n"), "long.gz"))
    assert lines_of(chunks) == [b"before", b"after"]
    assert chunks.notices == (f"{path}: line 2 is left out: it has 100,001 bytes, more than max_line_bytes=1,000",)
    assert [chunk.chunk_no for chunk in chunks.pinned] == [1, 2]


def test_what_is_whole_of_a_damaged_archive_comes_with_the_damage_said(bench: Bench) -> None:
    packed = gzip.compress(MANY)
    chunks = bench.chunks(path := bench.source(packed[: len(packed) // 2], "cut.gz"))
    lines = lines_of(chunks)
    assert len(lines) > 5_000
    assert lines == MANY_LINES[: len(lines)]
    [told] = chunks.notices
    assert told.startswith(f"{path}: ")
    assert f"the {len(lines):,} whole lines before it are kept" in told


def test_a_path_that_is_not_there_is_named_and_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.jsonl: no such file"):
        bench.chunks(bench.source(), str(bench.directory / "nowhere.jsonl"))
    assert list(bench.store.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ttl_s": 0}, "ttl_s=0 must be above 0"),
        ({"ttl_s": float("nan")}, "ttl_s=nan"),
        ({"limit": -1}, "limit=-1: give a whole number, 1 or more"),
    ],
)
def test_an_option_without_a_meaning_is_refused(bench: Bench, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        bench.chunks(bench.source(), **options)


def test_what_does_not_fit_is_refused_with_what_there_is_and_what_to_do(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.store.quota_bytes = 200_000
    kept = bench.chunks(bench.source(), limit=2)
    with pytest.raises(WorkspaceFull, match=r"may take 200\.0 kB .* other lists have \d+\.\d kB: .*limit=.*pinned_quota_bytes"):
        bench.chunks(bench.source())
    assert lines_of(kept) == MANY_LINES[:2_000]
    assert len(bench.files()) == 2, "nothing of what was refused stays"
    kept.close()
    assert len(bench.chunks(bench.source(), limit=2)) == 2


@pytest.mark.slow
def test_a_pin_that_nobody_holds_or_reads_makes_room(make: Callable[..., Bench]) -> None:
    bench = make()
    first = [chunk.pin_id for chunk in bench.pin(bench.source(), limit=4)]
    bench.store.quota_bytes = bench.store.stored_bytes + 1
    bench.client.renew_pin(first[0], 0.0)
    with pytest.raises(WorkspaceFull):
        list(bench.pin(bench.source()))
    bench.store._pins[first[0]].read_at_s -= UNREAD_S  # nobody has read it for so long
    assert len(list(bench.pin(bench.source(), limit=3))) == 3
    with pytest.raises(NotFound, match="not kept any more"):
        bench.client.renew_pin(first[0], TTL_S)


def test_a_list_that_is_closed_is_deleted_at_once_and_its_chunks_say_so(bench: Bench) -> None:
    with bench.chunks(bench.source()) as chunks:
        assert len(bench.files()) == 20
    assert list(bench.store.directory.iterdir()) == []
    with pytest.raises(NotFound, match="their list was closed, or nobody renewed it"):
        chunks[0].compute(scheduler="threads")
    chunks.close()
    assert repr(chunks) == "20 chunks, closed"


def test_a_collection_holds_what_the_list_held_and_its_end_lets_it_go(bench: Bench) -> None:
    import dask.bag

    bag = dask.bag.from_delayed(bench.chunks(bench.source())).map(len)
    [pin] = bench.store._pins.values()
    gc.collect()
    time.sleep(0.2)
    assert pin.is_held
    assert bag.count().compute(scheduler="threads") == 20_000
    del bag
    gc.collect()
    wait_until(lambda: not pin.is_held)
    assert pin.until_s - time.monotonic() < GRACE_S + 1
    assert len(bench.files()) == 20, "somebody may still be reading"


@pytest.mark.slow
def test_a_list_is_renewed_as_long_as_it_lives_and_runs_out_when_its_process_is_gone(bench: Bench) -> None:
    """Another process makes a list that is kept for 2 s, and is then killed."""
    script = (
        "import sys, time\n"
        "from protheon_dask.run.collections import pin_chunks\n"
        "from protheon_dask.run.master import Master\n"
        "chunks = pin_chunks(Master(sys.argv[1]), (sys.argv[2],), limit=1, ttl_s=2.0)\n"
        "print('there', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, bench.master.address, bench.source()], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        [pin] = bench.store._pins.values()
        until_s = pin.until_s
        wait_until(lambda: pin.until_s > until_s + 2.5)  # renewed twice and more: it lived beyond its first 2 s
        assert bench.store.sweep(time.monotonic()) == []
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: bench.store.sweep(time.monotonic()) == [pin.pin_id])
    assert list(bench.store.directory.iterdir()) == []


def test_the_end_of_the_interpreter_deletes_the_files(bench: Bench) -> None:
    script = (
        "import sys\n"
        "from protheon_dask.run.collections import pin_chunks\n"
        "from protheon_dask.run.master import Master\n"
        "chunks = pin_chunks(Master(sys.argv[1]), (sys.argv[2],), limit=1)\n"
        "print(len(chunks[0].compute(scheduler='threads')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bench.master.address, bench.source()], stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert done.stdout == "1250\n"  # 20,000 lines among 8 x 2 threads
    assert list(bench.store.directory.iterdir()) == []


def test_a_pin_outlives_its_broker_with_its_lines_and_its_time(bench: Bench) -> None:
    chunks = list(bench.pin(bench.source()))
    for leftover in ("f" * 32, "no-pin"):
        (bench.store.directory / leftover).mkdir()
    bench.restart()
    assert [path.name for path in bench.store.directory.iterdir()] == [chunks[0].pin_id]
    [pin] = bench.store._pins.values()
    assert TTL_S - 30 < pin.until_s - time.monotonic() <= TTL_S
    assert list(bench.pin(bench.source(), pin_id=chunks[0].pin_id)) == chunks


def test_a_pin_that_ran_out_while_no_broker_was_there_is_deleted_by_the_next(bench: Bench) -> None:
    [chunk] = bench.pin(bench.source(), limit=1)
    pin_id = chunk.pin_id
    os.utime(bench.store.directory / pin_id / "until", (time.time() - 1,) * 2)
    bench.restart()
    assert list(bench.store.directory.iterdir()) == []


def test_what_a_dead_broker_had_cut_is_gone_on_with_under_the_same_name(bench: Bench) -> None:
    """Its last words in the log were cut short, and a chunk was written of which it said nothing."""
    pin_id, path = uuid4().hex, bench.source(gzip.compress(MANY))
    begun = bench.pin(path, pin_id=pin_id)
    first = [next(begun) for _ in range(3)]
    begun.close()
    bench.block.close()
    with (bench.store.directory / pin_id / "log.jsonl").open("ab") as log:
        log.write(b'{"type":"cut","source_no":1,"mani')
    bench.start()
    again = list(bench.pin(path, pin_id=pin_id))
    assert again[:3] == first
    assert [chunk.n_lines for chunk in again] == [1_000] * 20
    assert len(bench.files()) == 20
    bench.restart()
    assert list(bench.pin(path, pin_id=pin_id)) == again


def test_a_source_that_became_another_since_is_cut_anew_under_the_same_name(bench: Bench) -> None:
    pin_id, paths = uuid4().hex, [bench.source(b"1\n2\n", "a"), bench.source(b"3\n4\n", "b")]
    assert len(list(bench.pin(*paths, pin_id=pin_id, chunk_lines=1))) == 4
    bench.source(b"5\n6\n7\n", "b")
    again = list(bench.pin(*paths, pin_id=pin_id, chunk_lines=1))
    assert [(Path(chunk.path).name, chunk.first_line) for chunk in again] == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]
    assert len(bench.files()) == 5
    used_bytes = sum(path.stat().st_size for path in bench.files())
    assert bench.store.stored_bytes == used_bytes
    bench.restart()
    assert bench.store.stored_bytes == used_bytes


@pytest.mark.parametrize("damage", ["bit", pytest.param("short", marks=pytest.mark.slow), "gone"])
def test_a_file_that_was_damaged_on_disk_is_cut_again(bench: Bench, damage: str) -> None:
    chunks = bench.chunks(bench.source(gzip.compress(MANY)))
    path = bench.files()[7]
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "short":
        path.write_bytes(content[:100])
    else:
        path.unlink()
    assert lines_of(chunks) == MANY_LINES
    assert len(bench.files()) == 20
    bench.restart()
    assert len(bench.store._pins) == 1


def test_a_damaged_file_of_a_source_that_changed_is_a_clear_error(bench: Bench) -> None:
    chunks = bench.chunks(bench.source())
    bench.files()[0].unlink()
    bench.source(b"another file\n")
    with pytest.raises(SourceChanged, match=r"lines\.jsonl: it is not what it was"):
        chunks[0].compute(scheduler="threads")
    assert chunks[1].compute(scheduler="threads") == MANY_LINES[1_000:2_000]


def test_a_client_that_goes_away_ends_the_cutting_and_another_does_not_wait_for_it(bench: Bench) -> None:
    path = bench.source()
    begun = [bench.pin(path) for _ in range(4)]  # more than are cut at a time
    for call in begun[:2]:
        next(call)
    for call in begun:
        call.close()
    assert len(list(bench.pin(path))) == 20
    wait_until(lambda: not any(pin.is_cut for pin in bench.store._pins.values()))


def test_more_who_wait_for_their_turn_than_there_are_threads_get_their_lists(bench: Bench) -> None:
    path = bench.source()
    calls = [bench.pin(path, chunk_lines=10_000) for _ in range(POOL_THREADS + CUTTERS)]
    with ThreadPoolExecutor(len(calls)) as pool:
        found = [pool.submit(list, call) for call in calls]
        try:
            assert [len(each.result(timeout=60)) for each in found] == [2] * len(calls)
        finally:
            bench.block.close()  # nobody waits for a list that does not come


def test_a_person_who_interrupts_the_cutting_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told every moment how far it is, until Ctrl-C."""
    monkeypatch.setattr(collections, "SAY_S", 0.0)
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pin_chunks(bench.master, (bench.source(MANY * 10),), chunk_lines=1_000, say=say)
    assert told[:2] == ["cut so far: 1 chunk, 1,000 lines", "cut so far: 2 chunks, 2,000 lines"]
    wait_until(lambda: list(bench.store.directory.iterdir()) == [] and not bench.desk._cuttings)


def test_two_clients_read_their_own_lists_side_by_side(bench: Bench) -> None:
    found: list[list[bytes]] = []
    paths = [bench.source(), bench.source(b"".join(b"other " + line + b"\n" for line in MANY_LINES), "other")]
    clients = [threading.Thread(target=lambda path=path: found.append(lines_of(bench.chunks(path)))) for path in paths]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert sorted(found) == sorted([MANY_LINES, [b"other " + line for line in MANY_LINES]])


def test_the_process_that_cuts_gives_way_and_a_killed_one_is_told(bench: Bench) -> None:
    import psutil

    call = bench.pin(bench.source(MANY * 20), chunk_lines=50_000)
    next(call)
    [splitter] = [child for child in psutil.Process().children() if "protheon_dask.workspace.splitter" in child.cmdline()]
    assert splitter.nice() >= 10
    splitter.send_signal(signal.SIGKILL)
    with pytest.raises(Exception, match="was killed by signal 9"):
        list(call)
    assert len(list(bench.pin(bench.source(), limit=1))) == 1


def test_a_name_that_is_no_pin_reaches_no_file(bench: Bench) -> None:
    for name in ("../../etc", "", "F" * 32):
        with pytest.raises(ConfigError, match="does not name a pin"):
            list(bench.client.pin(PinRequest(name, (bench.source(),), TTL_S)))
    bench.client.unpin("../lines.jsonl")
    assert (bench.directory / "lines.jsonl").exists()
