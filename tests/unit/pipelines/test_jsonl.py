"""The built-in pipeline jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from protheon_dask.pipelines.jsonl import default_table, jsonl
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.table import BatchRows


def run(*lines: bytes, line_nos: Sequence[int] | None = None) -> BatchRows:
    return jsonl("events").open(ChunkContext(7, 1, "events.jsonl")).transform(lines, line_nos or range(1, len(lines) + 1))


def test_a_line_is_known_by_its_place_and_kept_as_it_stands() -> None:
    batch = run(b'{"a": 1}', b" ", b'{"a": 1}', line_nos=(2001, 2002, 2007))
    assert batch.tables[0].rows == [(7, 2001, b'{"a": 1}'), (7, 2007, b'{"a": 1}')]
    assert batch.tables[0].ends == [1, 1, 2]
    assert batch.blank == [1]


@pytest.mark.parametrize(
    "line",
    [
        b"1",
        b"null",
        b'"x"',
        b"[]",
        b' {"a":[1e5,-0.0]} ',
        b'{"a":1,"a":2}',
        b"9" * 400,
        b'"\\\\u0000"',
        b'"\\ud83d\\ude00"',
        "é".encode().join([b'"'] * 2),
    ],
)
def test_valid_json_of_any_kind_is_loaded(line: bytes) -> None:
    assert run(line).tables[0].rows == [(7, 1, line)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":"\\u0000"}', "\\u0000 in a string"),
        (b'{"a":"\\\\\\u0000"}', "\\u0000 in a string"),
        (b'{"\\u0000":1}', "\\u0000 in a string"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xc0\x80"', "not UTF-8"),
        (b"NaN", "JSON is malformed"),
        (b'"\\ud800"', ""),
        (b'"\\udc00x"', "JSON is malformed: invalid utf-16 surrogate pair"),
        (b'"\x00"', "JSON is malformed"),
        (b"[" * 100_000, "JSON is nested too deeply"),
        (b'{"a":1', "Input data was truncated"),
        (b'{"a":1}{"b":2}', "JSON is malformed: trailing characters"),
        (b"\xef\xbb\xbf1", "JSON is malformed"),
    ],
)
def test_what_postgres_would_refuse_is_a_reject_with_a_reason(line: bytes, reason: str) -> None:
    batch = run(b"1", line, b"2")
    [verdict] = batch.rejected
    assert verdict.index == 1
    assert verdict.reason.startswith(reason)
    assert [row[1] for row in batch.tables[0].rows] == [1, 3]


def test_only_a_given_table_is_part_of_the_options() -> None:
    assert jsonl("events").options == {"table": "public.events"}
    assert jsonl("public.events", given=False).options == {}
    [table] = jsonl("raw.Events").tables
    assert (table.name, table.primary_key, table.on_conflict) == ("raw.Events", ("load_id", "line_no"), "ignore")


@pytest.mark.parametrize(
    ("paths", "table"),
    [
        (["/data/events.jsonl.zst"], "public.events"),
        (["events.2024-01.ndjson.gz"], "public.events_2024_01"),
        (["/data/Web Logs/*.jsonl"], "public.web_logs"),
        (["/data/logs/**/*.jsonl"], "public.logs"),
        (["/data/logs/"], "public.logs"),
        (["/data/logs/a.jsonl", "/data/logs/b.jsonl"], "public.logs"),
        (["s3://bucket/2024/part.jsonl.zst"], "public.part"),
        (["s3://bucket/2024/*.zst"], "public.t_2024"),
        (["https://ann:s3cr3t@host/a/part.jsonl.gz?sig=abcdef#x"], "public.part"),
        (["/data/日本.jsonl"], "public.lines"),
        (["/data/" + "x" * 99 + ".jsonl"], "public." + "x" * 63),
    ],
)
def test_the_default_table_is_named_after_the_first_path(paths: list[str], table: str) -> None:
    assert default_table(paths) == table


def test_a_directory_that_exists_names_its_table(tmp_path: Path) -> None:
    folder = tmp_path / "archive.2023"
    folder.mkdir()
    assert default_table([str(folder)]) == "public.archive_2023"
    assert default_table([str(folder), str(tmp_path)]) == "public.archive_2023"
