"""Whole, damaged and odd archives, and files that change under the reader: what is loaded, and what a person is told."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.run import api
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until

SETTINGS = {"workspace_quota_bytes": 30_000}
"""So little that a splitter waits for workers: a file can be changed while it is read."""
SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00hello"


def text(first: int, n_lines: int) -> bytes:
    return b"".join(b"%d\n" % n for n in range(first, first + n_lines))


def long_window(raw: bytes) -> bytes:
    """As ``zstd --long=31`` writes what it gets through a pipe."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, chain_log=6, hash_log=6, enable_ldm=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(raw) + stream.flush()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda raw: zstandard.ZstdCompressor(write_checksum=True).compress(raw),
}


def test_archives_of_every_kind_are_loaded_whole_whatever_their_names_say(world: World) -> None:
    folder = world.directory / "reports"
    folder.mkdir()
    kinds = {
        "a.txt": gzip.compress(text(0, 1_000)),
        "b.gz": bz2.compress(text(1_000, 1_000)),
        "c.zst": lzma.compress(text(2_000, 1_000)),
        "d.bz2": zstandard.compress(text(3_000, 1_000)),
        "e.xz": text(4_000, 1_000),
        "members.gz": gzip.compress(text(5_000, 500)) + gzip.compress(b"") + gzip.compress(text(5_500, 500)) + bytes(512),
        "frames.zst": SKIPPABLE + zstandard.compress(text(6_000, 500)) + SKIPPABLE + zstandard.compress(text(6_500, 500)),
        "long.zst": long_window(text(7_000, 1_000)),
        "long2.zst": zstandard.compress(text(8_000, 500)) + long_window(text(8_500, 500)),
        "empty.gz": gzip.compress(b""),
    }
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    done = world.load(write_pipeline(world.directory, "kinds"), folder, chunk_lines=300)
    assert (done.state, done.reason, done.files_done) == ("succeeded", None, len(kinds))
    assert numbers(world.url, "kinds") == list(range(9_000))
    assert done.notices == ()
    assert world.findings(done.run) == ()


@pytest.mark.parametrize("kind", ["gzip", "bzip2"])
def test_bytes_after_the_last_member_cost_no_line_and_are_told(world: World, kind: str) -> None:
    packed, path = PACK[kind](text(0, 1_000)), world.directory / "tape"
    path.write_bytes(packed + b"garbage")
    pipeline = write_pipeline(world.directory, f"rubbish_{kind}")
    done = world.load(pipeline, path)
    assert (done.state, done.loaded, done.reason) == ("succeeded", 1_000, None)
    [notice] = done.notices
    assert notice == (
        f"{path}: whole, but after its last {kind} member, at stored byte {len(packed):,}, there are 7 bytes that are none: "
        f"ignored, as {kind} itself does"
    )
    assert world.load(pipeline, path).skipped_files == 1


def test_of_damaged_archives_what_is_whole_is_loaded_and_mended_files_are_others(world: World) -> None:
    """Two members each; the second one is cut off, or has a byte that is another."""
    folder, whole, first = world.directory / "damaged", {}, {}
    folder.mkdir()
    for n, kind in enumerate(sorted(PACK)):
        for m, damage in enumerate(("corrupt", "truncated")):
            parts = [text((2 * n + m) * 2_000 + start, 1_000) for start in (0, 1_000)]
            path = folder / f"{kind}.{damage}"
            whole[path], first[path] = b"".join(map(PACK[kind], parts)), len(PACK[kind](parts[0]))
            middle = (first[path] + len(whole[path])) // 2
            spoilt = bytes([whole[path][middle] ^ 0xFF]) + whole[path][middle + 1 :] if damage == "corrupt" else b""
            path.write_bytes(whole[path][:middle] + spoilt)
    pipeline = write_pipeline(world.directory, "damaged")

    done = world.load(pipeline, folder, chunk_lines=400)
    assert (done.state, done.files_done) == ("incomplete", 0)
    loaded = numbers(world.url, "damaged")
    assert (done.lines, done.loaded) == (len(loaded), len(loaded))
    assert done.reason is not None
    files = api.report(world.url, "files", done.run)
    assert [Path(file["path"]) for file in files] == sorted(whole)
    for n, file in enumerate(files):
        path = Path(file["path"])
        kept = [number for number in loaded if n * 2_000 <= number < (n + 1) * 2_000]
        assert file["split_state"] == "damaged"
        assert first[path] <= file["damaged_at_bytes"] <= len(whole[path])
        assert kept[:1_000] == list(range(n * 2_000, n * 2_000 + 1_000))
        assert len(kept) < 2_000
        assert file["lines"] == len(kept)
        told = f"{path}: {path.stem} source is damaged at stored byte {file['damaged_at_bytes']:,}: "
        assert told in done.reason
        assert f"; the {len(kept):,} whole lines before it are kept; mend the file and type the same again" in file["split_message"]

    again = world.load(pipeline, folder)
    assert (again.state, again.own_lines, again.reason) == ("incomplete", 0, done.reason), "the same files: nothing twice, and no better"
    for path, content in whole.items():
        path.write_bytes(content)
    mended = world.load(pipeline, folder)
    assert (mended.state, mended.loaded) == ("succeeded", 2_000 * len(whole))
    assert numbers(world.url, "damaged") == sorted([*loaded, *range(2_000 * len(whole))]), "the table has no key: its rule keeps both"


@pytest.mark.slow
def test_a_damaged_archive_of_one_frame_keeps_its_whole_chunks(world: World) -> None:
    packed = gzip.compress(text(0, 300_000))
    path = world.directory / "one.gz"
    path.write_bytes(packed[: len(packed) * 9 // 10])
    done = world.load(write_pipeline(world.directory, "one_member"), path, chunk_lines=50_000)
    assert done.state == "incomplete"
    assert done.loaded in (200_000, 250_000)
    assert numbers(world.url, "one_member") == list(range(done.loaded))
    assert done.reason is not None
    assert f"the {done.loaded:,} whole lines before it are kept" in done.reason


def test_an_archive_that_is_damaged_from_its_first_byte_on_says_that_nothing_is_kept(world: World) -> None:
    path = world.directory / "nothing.gz"
    path.write_bytes(gzip.compress(text(0, 100))[:15])
    done = world.load(write_pipeline(world.directory, "nothing_kept"), path)
    assert (done.state, done.lines) == ("incomplete", 0)
    assert done.reason is not None
    assert "no whole line before it could be kept" in done.reason


def test_what_is_not_there_or_is_empty_is_refused_before_a_run_is_made(world: World) -> None:
    (world.directory / "folder").mkdir()
    pipeline = write_pipeline(world.directory, "unreadable")
    for name, words in (("none.jsonl", "no such file"), ("*.parquet", "no files where it points"), ("folder", "the directory is empty")):
        with pytest.raises(NotFound, match=words) as caught:
            world.submit(pipeline, world.directory / name)
        assert str(world.directory / name) in str(caught.value)
    assert world.ask("SELECT count(*) FROM protheon.run WHERE pipeline_name = 'unreadable'") == [(0,)]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything can be read by root")
def test_a_file_that_may_not_be_read_is_the_operators(world: World) -> None:
    path = write_numbers(world.directory / "locked.txt", 10)
    path.chmod(0)
    with pytest.raises(ConfigError, match="may not be read"):
        world.submit(write_pipeline(world.directory, "locked"), path)


def noise_lines(n_lines: int) -> bytes:
    """Numbers that do not compress: a quota in stored bytes is soon full."""
    generator = random.Random(5)
    return b"".join(b"%d\n" % generator.randrange(10**17, 10**18) for _ in range(n_lines))


def test_a_file_that_changes_while_it_is_read_keeps_what_was_loaded_and_its_next_form_is_another(world: World, gate: Gate) -> None:
    path, raw = world.directory / "log", noise_lines(20_000)
    path.write_bytes(raw)
    body = f"while not os.path.exists({str(gate.path)!r}):\n    time.sleep(0.02)"
    run = world.submit(write_pipeline(world.directory, "growing", body), path, chunk_lines=1_000)
    wait_until(lambda: api.report(world.url, "chunks", run.run_id))
    with path.open("ab") as fileobj:
        fileobj.write(b"7\n")
    gate.open()
    done = world.finish(run.run_id)
    assert done.state == "incomplete"
    assert done.reason is not None
    assert done.reason.startswith(
        f"{path}: it changed while it was read: what was loaded of it stands, the rest is not loaded; when it is "
    )
    [file] = api.report(world.url, "files", done.run)
    assert file["split_state"] == "changed"
    loaded = numbers(world.url, "growing")
    assert 0 < len(loaded) < 20_001
    assert loaded == sorted(map(int, raw.splitlines()[: len(loaded)]))
    again = world.load(write_pipeline(world.directory, "growing"), path)
    assert (again.state, again.loaded) == ("succeeded", 20_001)


@pytest.mark.slow  # it is tried four times, in seven seconds
def test_a_file_that_is_taken_away_while_it_is_read_is_waited_for_in_sight_and_then_given_up(world: World, gate: Gate) -> None:
    path = world.directory / "log"
    path.write_bytes(noise_lines(20_000))
    body = f"while not os.path.exists({str(gate.path)!r}):\n    time.sleep(0.02)"
    pipeline = write_pipeline(world.directory, "taken", body)
    run = world.submit(pipeline, path, chunk_lines=1_000)
    wait_until(lambda: api.report(world.url, "chunks", run.run_id))
    away = path.rename(world.directory / "away")
    gate.open()
    assert "no such file" in wait_until(lambda: world.cluster.client.get(run.run_id).reason)
    done = world.finish(run.run_id)
    assert done.state == "incomplete"
    assert done.reason is not None
    assert done.reason.startswith(f"{path}: no such file on host ")
    assert done.reason.endswith("what was loaded of it stands: put it right and type the same again")
    away.rename(path)
    again = world.submit(pipeline, path)
    assert [load.joined for load in again.loads] == ["resumed"]
    assert world.finish(again.run_id).loaded == 20_000
    assert len(numbers(world.url, "taken")) == 20_000


@pytest.mark.slow
def test_a_link_to_a_loaded_file_and_its_copy_elsewhere_are_the_same_file(world: World) -> None:
    source = write_numbers(world.directory / "a.txt", 500)
    elsewhere = world.directory / "elsewhere"
    elsewhere.mkdir()
    pipeline = write_pipeline(world.directory, "linked")
    (world.directory / "symbolic.txt").symlink_to(source)
    os.link(source, world.directory / "hard.txt")
    shutil.copyfile(source, elsewhere / "copy.txt")
    first = world.submit(pipeline, source, world.directory / "symbolic.txt", elsewhere / "copy.txt")
    assert len({load.load_id for load in first.loads}) == 1
    assert sum("the same file under another path: loaded once" in notice for notice in first.notices) == 2
    assert world.finish(first.run_id).lines == 500
    for path in (world.directory / "symbolic.txt", world.directory / "hard.txt", elsewhere / "copy.txt", elsewhere):
        again = world.submit(pipeline, path)
        assert [load.joined for load in again.loads] == ["skipped"]
        assert any(f"loaded already by run {first.run_id}: skipped" in notice for notice in again.notices)
        world.finish(again.run_id)
    assert numbers(world.url, "linked") == list(range(500))


def test_submissions_of_one_file_at_the_same_moment_load_it_once(world: World) -> None:
    path = write_numbers(world.directory / "a.txt", 2_000)
    pipeline = write_pipeline(world.directory, "at_once")
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: world.submit(pipeline, path, chunk_lines=100), range(4)))
    joined = sorted(str(load.joined) for run in runs for load in run.loads)
    assert joined.count("new") == 1
    assert {"new", "attached", "skipped"} >= set(joined)
    assert {world.finish(run.run_id).state for run in runs} == {"succeeded"}
    assert numbers(world.url, "at_once") == list(range(2_000))


@pytest.mark.slow
def test_a_line_of_46_mb_is_loaded(world: World) -> None:
    path = world.directory / "long.jsonl"
    with path.open("w") as fileobj:
        for n, n_bytes in enumerate((10, 46_000_000, 10)):
            json.dump({"n": n, "text": "x" * n_bytes}, fileobj)
            fileobj.write("\n")
    done = world.load("jsonl", path, table="public.long_lines")
    assert (done.state, done.loaded, done.rejected) == ("succeeded", 3, 0)
    rows = world.ask("SELECT line_no, length(doc->>'text') FROM public.long_lines ORDER BY line_no")
    assert rows == [(1, 10), (2, 46_000_000), (3, 10)]
