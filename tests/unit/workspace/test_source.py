"""Paths, identities, stamps and estimates, on real files, an in-memory store and a real HTTP server."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import fsspec  # type: ignore[import-untyped]  # fsspec ships no types
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.errors import ConfigError, MissingSetting, NotFound
from protheon_dask.model import Identity
from protheon_dask.workspace.source import SAMPLE_BYTES, WHOLE_BYTES, estimate_lines, identify, open_source, resolve, stat
from tests.unit.workspace.test_archives import PACK, noise


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jsonl", "a.jsonl", ".hidden", "sub/c.jsonl", "sub/d.txt", "x[1].jsonl", "empty/.keep"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def names(tree: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, tree) for path in resolve(paths)]


def test_files_directories_and_globs_mean_absolute_files_each_once(tree: Path) -> None:
    assert names(tree, ["data/b.jsonl", "data"]) == ["b.jsonl", "a.jsonl", "x[1].jsonl"]
    assert names(tree, ["data/*.jsonl"]) == ["a.jsonl", "b.jsonl", "x[1].jsonl"]
    assert names(tree, ["data/**/*.jsonl"]) == ["a.jsonl", "b.jsonl", "sub/c.jsonl", "x[1].jsonl"]
    assert names(tree, ["data/*"]) == ["a.jsonl", "b.jsonl", "x[1].jsonl"]
    assert names(tree, [str(tree / "sub" / ".." / "a.jsonl"), (tree / "a.jsonl").as_uri()]) == ["a.jsonl"]
    assert all(Path(path).is_absolute() for path in resolve(["data"]))


def test_a_name_that_exists_is_no_glob(tree: Path) -> None:
    assert names(tree, ["data/x[1].jsonl"]) == ["x[1].jsonl"]


@pytest.mark.parametrize("path", ["data/none.jsonl", "data/*.parquet", "data/empty", "memory://nowhere/none"])
def test_what_is_not_there_is_named_with_this_host(tree: Path, path: str) -> None:
    with pytest.raises(NotFound) as caught:
        resolve([str(tree / "a.jsonl"), path])
    assert path in str(caught.value)
    assert socket.gethostname() in str(caught.value)


def test_a_directory_without_files_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the directory is empty"):
        resolve([str(tmp_path)])
    (tmp_path / ".hidden").touch()
    with pytest.raises(NotFound, match=r"the directory has no files .*; hidden files"):
        resolve([str(tmp_path)])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_can_be_read_only_once_is_refused_rather_than_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "pipe.jsonl")
    with pytest.raises(ConfigError, match=r"pipe\.jsonl: a pipe, socket or device on host .*write what comes from it into a file"):
        resolve([str(tree / "pipe.jsonl")])
    assert "pipe.jsonl" not in names(tree, ["data"])


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_no_text_is_said(tree: Path) -> None:
    Path(os.fsdecode(bytes(tree) + b"/\xff.jsonl")).write_bytes(b"1\n")
    with pytest.raises(ConfigError, match=r"data/\\udcff\.jsonl': its name is no text in UTF-8"):
        resolve([str(tree)])


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can become somebody who may not look")
@pytest.mark.parametrize("path", ["", "/*", "/a.jsonl", "/sub/**"])
def test_a_directory_into_which_this_user_may_not_look_is_the_operators(tree: Path, path: str) -> None:
    tree.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="may not be read by this user on host"):
            resolve([f"{tree}{path}"])
    finally:
        os.seteuid(0)


def test_urls_go_through_fsspec() -> None:
    store = fsspec.filesystem("memory")
    for name in ("/bucket/b.jsonl", "/bucket/a.jsonl", "/bucket/.hidden", "/bucket/sub/c.jsonl"):
        store.pipe_file(name, name.encode() * 10)
    try:
        assert resolve(["memory://bucket/a.jsonl"]) == ["memory://bucket/a.jsonl"]
        assert resolve(["memory://bucket"]) == ["memory:///bucket/a.jsonl", "memory:///bucket/b.jsonl"]
        assert resolve(["memory://bucket/*.jsonl"]) == ["memory:///bucket/a.jsonl", "memory:///bucket/b.jsonl"]
        [path] = resolve(["memory://bucket/**/c.jsonl"])
        raw = b"/bucket/sub/c.jsonl" * 10
        assert identify(path) == Identity(len(raw), xxhash.xxh3_128_digest(raw))
        assert estimate_lines(path, len(raw)) == 1
        before = stat(path)
        assert before == stat(path)
        with open_source(path) as fileobj:
            assert fileobj.read() == raw
        store.pipe_file("/bucket/sub/c.jsonl", raw)
        assert stat(path) != before
    finally:
        store.rm("/bucket", recursive=True)


def test_an_unknown_protocol_is_the_operators() -> None:
    with pytest.raises(MissingSetting, match="nonsense"):
        resolve(["nonsense://bucket/a"])


def test_a_local_file_that_vanished_is_named_with_this_host(tmp_path: Path) -> None:
    for ask in (identify, stat, open_source, lambda path: estimate_lines(path, 1)):
        with pytest.raises(NotFound) as caught:
            ask(str(tmp_path / "gone"))
        assert "gone" in str(caught.value)
        assert socket.gethostname() in str(caught.value)


def test_the_identity_is_of_all_bytes_of_small_sources_under_any_name_and_time(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(noise(5_000_000))
    shutil.copy(a, b)
    os.utime(b, (1, 1))
    assert identify(str(a)) == identify(str(b)) == Identity(5_000_000, xxhash.xxh3_128_digest(a.read_bytes()))
    assert stat(str(a)) != stat(str(b))
    with b.open("r+b") as fileobj:
        fileobj.seek(3_333_333)
        fileobj.write(b"X")
    assert identify(str(a)) != identify(str(b))


def test_the_identity_of_large_sources_is_of_five_samples(tmp_path: Path) -> None:
    path, size = tmp_path / "large", WHOLE_BYTES + 4 * SAMPLE_BYTES + 3
    path.touch()
    os.truncate(path, size)  # a hole: takes no space

    def touched(offset: int) -> Identity:
        with path.open("r+b") as fileobj:
            fileobj.seek(offset)
            fileobj.write(b"X")
            fileobj.flush()
            found = identify(str(path))
            fileobj.seek(offset)
            fileobj.write(b"\0")
        return found

    same = identify(str(path))
    assert same == Identity(size, xxhash.xxh3_128_digest(bytes(5 * SAMPLE_BYTES)))
    for start in (0, size - SAMPLE_BYTES, size // 4, size // 2, size * 3 // 4):
        assert touched(start) != same
        assert touched(start + SAMPLE_BYTES - 1) != same
    assert touched(SAMPLE_BYTES) == same, "a same-size edit elsewhere needs --again: documented"
    os.truncate(path, size + 1)
    assert identify(str(path)) != same


@pytest.mark.parametrize("kind", sorted(PACK))
@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=40), ends=st.booleans())
def test_estimates_of_small_sources_are_exact(tmp_path_factory: pytest.TempPathFactory, kind: str, lines: list[bytes], ends: bool) -> None:
    raw = b"{" + b"\n".join(lines) + (b"\n" if ends else b"")
    path = tmp_path_factory.getbasetemp() / f"estimate-{kind}"
    path.write_bytes(PACK[kind]([raw]))
    assert estimate_lines(str(path), path.stat().st_size) == raw.count(b"\n") + (not raw.endswith(b"\n"))


@pytest.mark.parametrize("kind", sorted(PACK))
def test_estimates_of_larger_sources_are_near(kind: str, tmp_path: Path) -> None:
    lines = [noise(998, seed=i) + b"\n" for i in range(12_000)]
    (tmp_path / "source").write_bytes(PACK[kind]([b"".join(lines)]))
    assert estimate_lines(str(tmp_path / "source"), (tmp_path / "source").stat().st_size) == pytest.approx(12_000, rel=0.15)


def test_a_damaged_head_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    packed = PACK["gzip"]([b"a\n" * 1000])
    (tmp_path / "source").write_bytes(packed + b"garbage")
    assert estimate_lines(str(tmp_path / "source"), len(packed) + 7) == 1000
