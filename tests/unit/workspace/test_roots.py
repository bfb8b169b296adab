"""source_roots: what clients of other hosts may name, and the tricks by which they might name something else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from protheon_dask.errors import ConfigError, NotAllowed, NotFound, SourceUnavailable
from protheon_dask.workspace.roots import SourceRoots
from protheon_dask.workspace.url import shown
from tests.fixtures.web import WebServer

SECRET = "secret.jsonl"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``open`` may be named; ``open-not`` and what lies beside them may not."""
    for name in ("open/day", "open-not", "outside"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("open/a.jsonl", "open/b.jsonl", "open/day/c.jsonl", f"open-not/{SECRET}", f"outside/{SECRET}"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "open/[1].jsonl").write_text("{}\n")
    return tmp_path


def allowed(tree: Path, *names: str) -> list[str]:
    found = SourceRoots(str(tree / "open")).resolve([str(tree / name) for name in names])
    return [str(Path(name).relative_to(tree)) for name in found]


def refuses(roots: SourceRoots, path: str) -> None:
    with pytest.raises(NotAllowed, match="source_roots") as raised:
        roots.resolve([path])
    assert SECRET not in str(raised.value).replace(shown(path), "")  # what a link leads to is not told


def test_files_directories_globs_and_names_below_a_root_are_allowed(tree: Path) -> None:
    assert allowed(tree, "open") == ["open/[1].jsonl", "open/a.jsonl", "open/b.jsonl"]
    assert allowed(tree, "open/*.jsonl") == ["open/[1].jsonl", "open/a.jsonl", "open/b.jsonl"]
    assert allowed(tree, "open/**/c*") == ["open/day/c.jsonl"]
    assert allowed(tree, "open/[1].jsonl", "outside/../open/a.jsonl") == ["open/[1].jsonl", "open/a.jsonl"]
    with pytest.raises(NotFound):
        allowed(tree, "open/none.jsonl")


@pytest.mark.parametrize(
    "name",
    [
        f"outside/{SECRET}",
        "outside/none.jsonl",
        f"open/../outside/{SECRET}",
        f"open/*/../../outside/{SECRET}",
        f"open-not/{SECRET}",
        "open-not",
        "ope*/*.jsonl",
        "*",
        "",
        "..",
        "open/../open-no[t]/*",
    ],
)
def test_what_lies_elsewhere_is_refused_whether_it_is_there_or_not(tree: Path, name: str) -> None:
    refuses(SourceRoots(str(tree / "open")), str(tree / name))


@pytest.mark.parametrize(
    "name", ["open/link/secret.jsonl", "open/link/*", "open/link", "open/file", "open/**/*", "open/f*", "open/dangling"]
)
def test_a_link_that_leads_elsewhere_is_refused_and_its_aim_not_told(tree: Path, name: str) -> None:
    (tree / "open/link").symlink_to(tree / "outside")
    (tree / "open/file").symlink_to(tree / "outside" / SECRET)
    (tree / "open/dangling").symlink_to(tree / "outside/none")
    refuses(SourceRoots(str(tree / "open")), str(tree / name))


@pytest.mark.parametrize(
    "name",
    ["open/circle", "open/circle/a", "open/a\0.jsonl", "~nobody-of-that-name/a", f"open/{'x/' * 5_000}", f"open/{'x' * 5_000}"],
    ids=["a link to itself", "below it", "a NUL", "nobody's home", "a deep path", "a long name"],
)
def test_names_that_lead_nowhere_end_in_an_error_of_ours(tree: Path, name: str) -> None:
    (tree / "open/circle").symlink_to(tree / "open/circle")
    with pytest.raises((ConfigError, SourceUnavailable)):
        SourceRoots(str(tree / "open")).resolve([name if name.startswith("~") else f"{tree}/{name}"])


def test_an_archive_below_a_root_may_be_looked_into(tree: Path) -> None:
    for name in ("open", "outside"):
        with zipfile.ZipFile(tree / name / "a.zip", "w") as archive:
            archive.writestr("inside.jsonl", "{}\n")
    roots = SourceRoots(str(tree / "open"))
    for inner in (f"{tree}/open/a.zip", f"file://{tree}/open/a.zip"):
        assert len(roots.resolve([f"zip://*.jsonl::{inner}"])) == 1
    for inner in (f"{tree}/outside/a.zip", f"{tree}/open/../outside/a.zip", f"file://{tree}/outside/a.zip"):
        refuses(roots, f"zip://*.jsonl::{inner}")


def test_a_root_may_be_a_link_and_a_link_may_lead_to_another_root(tree: Path) -> None:
    (tree / "data").symlink_to(tree / "open")
    (tree / "open/other").symlink_to(tree / "outside" / SECRET)
    roots = SourceRoots(os.pathsep.join([str(tree / "data"), str(tree / "outside")]))
    assert roots.resolve([str(tree / "data/a.jsonl")]) == [str(tree / "data/a.jsonl")]
    assert roots.resolve([str(tree / "open/other")]) == [str(tree / "open/other")]


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "file:///open/..{}"])
def test_file_urls_are_local_paths(tree: Path, form: str) -> None:
    refuses(SourceRoots(str(tree / "open")), form.format(tree / "outside" / SECRET))
    refuses(SourceRoots(str(tree / "open")), form.format(f"{tree}/open/%2e%2e/outside/{SECRET}"))


def test_a_relative_path_and_a_home_are_those_of_the_master(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "open/day")
    monkeypatch.setenv("HOME", str(tree / "outside"))
    roots = SourceRoots(str(tree / "open"))
    assert roots.resolve(["c.jsonl", "../a.jsonl"]) == [str(tree / "open/day/c.jsonl"), str(tree / "open/a.jsonl")]
    for path in (f"~/{SECRET}", f"../../outside/{SECRET}"):
        refuses(roots, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/open/../secret.jsonl",
        "http://127.0.0.1:{port}/open/%2e%2e/secret.jsonl",
        "http://127.0.0.1:{port}/open/%252E%252E/secret.jsonl",
        "http://127.0.0.1:{port}/open/..\\secret.jsonl",
        "http://127.0.0.1:{port}/open/..;/secret.jsonl",
        "http://127.0.0.1:{port}/openly/secret.jsonl",
        "http://127.0.0.1:{port}@evil.example/open/secret.jsonl",
        "https://127.0.0.1:{port}/open/secret.jsonl",
        "FILE:///etc/passwd",
        "local:///etc/passwd",
        "file:///etc/passwd::http://127.0.0.1:{port}/open/a.jsonl",
        "simplecache::file:///etc/passwd",
        "reference://x::http://127.0.0.1:{port}/open/a.jsonl",
        "zip://a.jsonl::/etc/archive.zip",
        "zip://a.jsonl::http://127.0.0.1:{port}/secret.zip",
        "memory://secret.jsonl",
    ],
)
def test_urls_go_by_their_whole_beginning(tree: Path, url: str) -> None:
    refuses(SourceRoots(f"{tree / 'open'}{os.pathsep}http://127.0.0.1:9/open/"), url.format(port=9))


def test_a_url_below_a_prefix_is_allowed(web_server: WebServer) -> None:
    web_server.add("/open/a.jsonl", b"{}\n")
    url = web_server.url("/open/a.jsonl")
    assert SourceRoots(url.removesuffix("/a.jsonl")).resolve([url]) == [url]
    assert SourceRoots(url).resolve([url]) == [url]


def test_without_roots_nothing_is_allowed_and_the_message_says_what_to_do(tree: Path) -> None:
    with pytest.raises(
        NotAllowed, match=r"source_roots is empty: add the directory .*, by PROTHEON_SOURCE_ROOTS or .*; or submit from that host"
    ):
        SourceRoots("").resolve([str(tree / "open/a.jsonl")])


def test_roots_are_split_where_an_absolute_path_or_a_url_begins() -> None:
    if os.pathsep != ":":
        pytest.skip("POSIX")
    roots = SourceRoots("/data:s3://bucket/a:https://h:8080/x/:/more:")
    assert roots._told() == "/data:/more:s3://bucket/a:https://h:8080/x"
    for odd in ("data", "./data"):
        with pytest.raises(ConfigError, match=r"source_roots: .* is neither an absolute directory nor a URL"):
            SourceRoots(odd)
