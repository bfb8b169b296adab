"""Which paths are URLs, and how they are shown without what opens doors."""

from __future__ import annotations

from pathlib import Path

import pytest

from protheon_dask.workspace.url import absolute, is_url, is_web, shown, without_secrets


@pytest.mark.parametrize(
    ("path", "url", "web"),
    [
        ("a.jsonl", False, False),
        ("C://data/a.jsonl", False, False),
        ("file:///data/a.jsonl", False, False),
        ("s3://bucket/a.jsonl", True, False),
        ("https://host/a.jsonl", True, True),
        ("zip://a.jsonl::reports.zip", True, False),
        ("https://host/a.zip::x", True, False),
        ("http://[::1]:8000/a.jsonl", True, True),
        ("http://[2001:db8::7]/a.jsonl?from=x::y", True, True),
        ("zip://a.jsonl::http://[::1]/a.zip", True, False),
    ],
)
def test_urls_are_for_stores_and_those_of_web_servers_are_read_here(path: str, url: bool, web: bool) -> None:
    assert (is_url(path), is_web(path)) == (url, web)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/data/user:word@x?token=1", "/data/user:word@x?token=1"),
        ("s3://bucket/key=1/a.jsonl", "s3://bucket/key=1/a.jsonl"),
        ("https://host/a?page=2&b", "https://host/a?page=2&b"),
        ("https://ann:s3cr3t@host:8443/a", "https://ann:***@host:8443/a"),
        ("https://host/a?X-Amz-Date=1&X-Amz-Signature=abcdef&X-Amz-Credential=AK/1", "https://host/a?X-Amz-Date=1&X-Amz-Signature=***&X-Amz-Credential=***"),
        ("https://host/a?sv=2022&sig=a%2Bb", "https://host/a?sv=2022&sig=***"),
        ("https://ann:s3@cr3t@host/a@b", "https://ann:***@host/a@b"),
        ("https://ann:s3/cr3t@host/a", "https://ann:***@host/a"),
        ("https://ghp_s3cr3t@host/a", "https://***@host/a"),
        ("sftp://ann@host/a", "sftp://ann@host/a"),
        ("http://ann:s3cr3t@[::1]:8000/a?token=abcd::ef#part", "http://ann:***@[::1]:8000/a?token=***#part"),
        ("http://[no address", "http://[no address"),
        ("zip://m.jsonl::http://ann:s3cr3t@[::1]/a.zip", "zip://m.jsonl::http://ann:***@[::1]/a.zip"),
        ("zip://m.jsonl::https://ann:s3cr3t@host/a.zip", "zip://m.jsonl::https://ann:***@host/a.zip"),
    ],
)  # fmt: skip
def test_passwords_and_signatures_are_not_shown(path: str, seen: str) -> None:
    assert shown(path) == seen
    assert shown(seen) == seen
    assert without_secrets(f"cannot open {path}!", path) == f"cannot open {seen}!"


def test_a_secret_is_not_in_a_foreign_message_either() -> None:
    url = "https://ann:s3%20cr3t@host/a?token=abcd1234"
    assert without_secrets("s3 cr3t or s3%20cr3t or abcd1234 is wrong", url) == "*** or *** or *** is wrong"


def test_local_paths_become_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    for path in ("a.jsonl", "sub/*.jsonl"):
        assert absolute(path) == str(here / path)
    for path in (
        "/x/b.jsonl",
        "s3://bucket/c.jsonl",
        "file:///d.jsonl",
        "zip://m::https://host/a.zip",
        "http://[::1]:80/e",
        "http://h/f?a=b::c",
    ):
        assert absolute(path) == path
    assert absolute("zip://m.jsonl::a.zip") == f"zip://m.jsonl::{here / 'a.zip'}"
