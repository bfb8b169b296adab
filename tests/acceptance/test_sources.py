"""What a file may be like: empty, unended, with CRLF or a BOM, truncated, with a line beyond all measure; every line is accounted for."""

from __future__ import annotations

import random

import pytest
import zstandard

from protheon_dask.run import api
from tests.acceptance.conftest import World, numbers, write_pipeline

MAX_LINE_BYTES = 100_000
SETTINGS = {"max_line_bytes": MAX_LINE_BYTES}


@pytest.mark.parametrize(
    ("name", "content", "lines", "loaded", "blank"),
    [
        ("empty", b"", 0, [], 0),
        ("unended", b"1\n2\n3", 3, [1, 2, 3], 0),
        ("ended", b"1\n2\n3\n", 3, [1, 2, 3], 0),
        ("crlf", b"1\r\n2\r\n\r\n3\r\n", 4, [1, 2, 3], 1),
        ("bom", b"\xef\xbb\xbf1\n2\n", 2, [1, 2], 0),
        ("only_bom", b"\xef\xbb\xbf", 1, [], 1),
        ("blank", b"\n \t\r\n\n7\n\n", 5, [7], 4),
        ("one_lf", b"\n", 1, [], 1),
        ("all_at_once", b"\xef\xbb\xbf1\r\n\n2\n \t\r\n3\r\n\r\n4", 7, [1, 2, 3, 4], 3),
    ],
)
def test_each_line_is_counted_once(world: World, name: str, content: bytes, lines: int, loaded: list[int], blank: int) -> None:
    path = world.directory / f"{name}.txt"
    path.write_bytes(content)
    done = world.load(write_pipeline(world.directory, name), path)
    assert (done.state, done.reason) == ("succeeded", None)
    assert (done.lines, done.loaded, done.blank, done.rejected) == (lines, len(loaded), blank, 0)
    assert numbers(world.url, name) == loaded
    assert done.raw_bytes == len(content)
    assert done.files_done == 1
    assert world.findings(done.run) == ()
    again = world.load(write_pipeline(world.directory, name), path)
    assert (again.state, again.skipped_files) == ("succeeded", 1)


def test_of_a_truncated_archive_what_is_whole_is_loaded_and_the_damage_is_located(world: World) -> None:
    """Ten frames of 1,000 lines each; the last third of the bytes is missing."""
    frames = [zstandard.compress("".join(f"{n}\n" for n in range(k * 1_000, (k + 1) * 1_000)).encode()) for k in range(10)]
    stored = b"".join(frames)
    whole, size = 0, 0
    while size + len(frames[whole]) <= len(stored) * 2 // 3:
        size += len(frames[whole])
        whole += 1
    path = world.directory / "truncated.zst"
    path.write_bytes(stored[: len(stored) * 2 // 3])

    done = world.load(write_pipeline(world.directory, "truncated"), path, chunk_lines=700)
    assert done.state == "incomplete"
    assert (done.loaded, done.lines) == (whole * 1_000, whole * 1_000)
    assert numbers(world.url, "truncated") == list(range(whole * 1_000))
    [file] = api.report(world.url, "files", done.run)
    assert file["split_state"] == "damaged"
    assert size <= file["damaged_at_bytes"] <= len(stored) * 2 // 3
    assert done.reason is not None
    assert done.reason.count(str(path)) == 1
    assert done.reason.count(f"{file['damaged_at_bytes']:,}") == 1
    assert f"stored byte {file['damaged_at_bytes']:,}" in done.reason
    assert world.findings(done.run) != ()
    assert {letter for attempts in world.attempts(done.run).values() for letter in attempts} == {("succeeded", "nothing")}


def test_a_line_beyond_the_limit_is_a_reject_by_itself_and_its_neighbours_are_loaded(world: World) -> None:
    long = bytes(random.Random(7).choices(b"0123456789", k=MAX_LINE_BYTES + 1))
    content = b"1\n2\n" + long + b"\n3\n" + b"x" * MAX_LINE_BYTES + b"\n4\n" + long[1:]
    path = world.directory / "long.txt"
    path.write_bytes(content)
    done = world.load(write_pipeline(world.directory, "long_line"), path)

    assert done.state == "succeeded", done.reason
    assert (done.lines, done.loaded, done.rejected, done.raw_bytes) == (7, 4, 3, len(content))
    assert numbers(world.url, "long_line") == [1, 2, 3, 4]
    rejects = api.report(world.url, "rejects", done.run)
    assert [(row["line"], row["byte_offset"], row["raw_bytes"]) for row in rejects] == [
        (3, 4, MAX_LINE_BYTES + 2),
        (5, 4 + MAX_LINE_BYTES + 4, MAX_LINE_BYTES),
        (7, 4 + MAX_LINE_BYTES + 4 + MAX_LINE_BYTES + 3, MAX_LINE_BYTES),
    ]
    first, *_ = rejects
    assert bytes(first["raw"]) == long[:65_536]
    assert "more than max_line_bytes" in first["reason"]
    chunks = api.report(world.url, "chunks", done.run)
    assert [(c["first_line"], c["n_lines"], c["state"]) for c in chunks] == [(1, 2, "succeeded"), (3, 1, "succeeded"), (4, 4, "succeeded")]
    assert world.findings(done.run) == ()


def test_files_of_a_directory_are_one_run_and_each_is_counted(world: World) -> None:
    folder = world.directory / "many"
    folder.mkdir()
    for k in range(5):
        (folder / f"{k}.txt").write_text("".join(f"{n}\n" for n in range(k * 100, k * 100 + 100)))
    (folder / "empty.txt").touch()
    done = world.load(write_pipeline(world.directory, "many"), folder)
    assert (done.state, done.files, done.files_done, done.lines) == ("succeeded", 6, 6, 500)
    assert numbers(world.url, "many") == list(range(500))


def test_a_file_that_grows_again_after_its_load_is_another_file(world: World) -> None:
    path = world.directory / "grows.txt"
    path.write_text("1\n")
    pipeline = write_pipeline(world.directory, "grows")
    assert world.load(pipeline, path).loaded == 1
    path.write_text("1\n2\n")
    assert world.load(pipeline, path).loaded == 2  # both lines: it is another source, and the table has no key
    assert numbers(world.url, "grows") == [1, 1, 2]
