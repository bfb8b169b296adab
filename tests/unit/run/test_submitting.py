"""What a person gives to load(), read and checked before anything is asked of a master."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import protheon_dask as protheon
from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.policy import RejectLimit
from protheon_dask.run.addresses import master_address
from protheon_dask.run.submitting import loading, reject_limit_of


def test_paths_are_one_or_many_texts_or_paths_and_come_out_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert loading("a.jsonl").paths == [str(tmp_path / "a.jsonl")]
    assert loading(Path("a.jsonl")).paths == [str(tmp_path / "a.jsonl")]
    assert loading(path for path in ("x/*.gz", Path("/b"), "s3://c/d")).paths == [str(tmp_path / "x/*.gz"), "/b", "s3://c/d"]


def test_a_pipeline_is_a_name_or_itself() -> None:
    assert loading("a.jsonl", pgcr).pipeline is pgcr
    assert loading("a.jsonl", "pgcr").pipeline is pgcr
    assert loading("/data/reports/a.jsonl").pipeline.tables[0].name == "public.a"
    assert loading("a.jsonl", table="lab.raw").pipeline.tables[0].name == "lab.raw"


def plain(line: bytes) -> bytes:
    return line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"paths": []}, "no path is given"),
        ({"paths": [3]}, "3 is no path: give a str, a Path, or a list of them"),
        ({"paths": b"a.jsonl"}, "b'a.jsonl' is no path"),
        ({"paths": [b"a.jsonl"]}, "b'a.jsonl' is no path"),
        ({"paths": "a", "pipeline": plain}, r"plain is no pipeline: decorate the function with @protheon.pipeline\(\)"),
        ({"paths": "a", "pipeline": pgcr, "table": "x"}, "a table is given, but pipeline pgcr names its own tables"),
        ({"paths": "a", "again": True, "replace": True}, "give one of the two"),
        ({"paths": "a", "chunk_lines": 0}, "chunk_lines=0 is neither a number of lines nor auto"),
        ({"paths": "a", "chunk_lines": "many"}, "chunk_lines='many' is neither"),
        ({"paths": "a", "chunk_lines": True}, "chunk_lines=True is neither"),
        ({"paths": "a", "reject_limit": 1.5}, "reject limit 1.5: a share is within 0.0 and 1.0; a number of lines is an int"),
        ({"paths": "a", "reject_limit": -1}, "reject limit '-1': give a number of lines"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_refused_with_what_to_give(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        loading(**arguments)


def test_a_path_of_this_machine_that_is_not_there_is_found_out_here(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        loading(tmp_path / "missing.jsonl").check_here()
    loading("https://192.0.2.1/a.jsonl").check_here()  # a URL is the master's to look at


def test_a_reject_limit_is_lines_a_share_or_the_commands_text() -> None:
    assert reject_limit_of(1000) == reject_limit_of("1000") == RejectLimit(lines=1000)
    assert reject_limit_of(0.05) == reject_limit_of("5%") == RejectLimit(fraction=0.05)
    assert reject_limit_of(0) == RejectLimit(lines=0)
    assert reject_limit_of(RejectLimit(lines=7)) == RejectLimit(lines=7)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("master", "master:50051"),
        ("master:7000", "master:7000"),
        (" 10.0.0.7:50051 ", "10.0.0.7:50051"),
        ("[::1]:7000", "[::1]:7000"),
        ("[::1]", "[::1]:50051"),
        ("fe80::1", "[fe80::1]:50051"),
    ],
)
def test_an_address_may_leave_its_port_out(given: str, address: str) -> None:
    assert master_address(given) == address


@pytest.mark.parametrize(
    "given",
    ["", ":50051", "master:", "master:0", "master:99999", "http://master:50051", "master:grpc", "nuc:1:2", "[nuc]:1", "ann@nuc", "nuc/x"],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a master: give host:port"):
        master_address(given)


def test_a_wait_that_is_over_is_a_timeout_error() -> None:
    error = protheon.StillRunning(3, 1.25)
    assert isinstance(error, TimeoutError)
    assert str(error) == "run 3 had not ended after 1.25 s; it runs on"
