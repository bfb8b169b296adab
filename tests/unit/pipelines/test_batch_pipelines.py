"""Pipelines that are called once a batch."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pandas
import polars
import pyarrow
import pytest

import protheon_dask as protheon
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.table import BatchRows, Verdict


class Visit(protheon.Row, table="visits"):
    page: str
    n: int | None = None
    at: datetime.datetime | None = None


class Page(protheon.Row, table="pages", primary_key="page", on_conflict="ignore", shared=True):
    page: str


LINES = [b'{"page":"a"}', b" ", b'{"page":"b","n":1}', b"{bad", b'{"page":"c","n":null}', b'{"page":"skip"}']


def run(pipeline: Pipeline, lines: list[bytes]) -> BatchRows:
    batch = pipeline.open(ChunkContext(7, 1, "visits.jsonl")).transform(lines, range(1, len(lines) + 1))
    assert batch.n_lines == len(lines)
    for table in batch.tables:
        assert len(table.ends) == len(lines)
        assert table.ends == sorted(table.ends)
    assert batch.n_loaded() + len(batch.rejected) + len(batch.filtered) + len(batch.blank) == len(lines)
    return batch


@protheon.pipeline(tables=[Visit])
def with_pandas(frame: pandas.DataFrame) -> Any:
    return {Visit: frame[frame.page != "skip"], protheon.FILTERED: frame[frame.page == "skip"]["_line"]}


@protheon.pipeline(tables=[Visit])
def with_polars(frame: polars.DataFrame) -> Any:
    return {"visits": frame.filter(polars.col("page") != "skip"), protheon.FILTERED: [3]}


@protheon.pipeline(tables=[Visit])
def with_arrow(frame: pyarrow.Table) -> Any:
    import pyarrow.compute as compute

    keep = compute.not_equal(frame["page"], "skip")
    return {Visit: frame.filter(keep), protheon.FILTERED: [3]}


@pytest.mark.parametrize("pipeline", [with_pandas, with_polars, with_arrow])
def test_frames_go_in_and_out_with_their_line(pipeline: Pipeline) -> None:
    batch = run(pipeline, LINES)
    assert batch.tables[0].rows == [("a", None, None), ("b", 1, None), ("c", None, None)]
    assert batch.tables[0].ends == [1, 1, 2, 2, 3, 3]
    assert batch.blank == [1]
    assert batch.filtered == [5]
    assert batch.rejected == [Verdict(3, "JSON is malformed: object keys must be strings (byte 1)")]


def test_values_of_frames_become_values_of_python() -> None:
    at = datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)

    @protheon.pipeline(tables=[Visit])
    def pandas_times(frame: pandas.DataFrame) -> pandas.DataFrame:
        return pandas.DataFrame({"_line": [1, 0], "at": [pandas.NaT, pandas.Timestamp(at)], "n": [None, 3.0], "page": ["y", "x"]})

    @protheon.pipeline(tables=[Visit])
    def polars_times(frame: polars.DataFrame) -> polars.DataFrame:
        return polars.DataFrame({"_line": [1, 0], "at": [None, at], "n": [None, 3], "page": ["y", "x"]})

    @protheon.pipeline(tables=[Visit])
    def arrow_times(frame: pyarrow.Table) -> Any:
        return pyarrow.table({"_line": [1, 0], "at": [None, at], "n": [None, 3], "page": ["y", "x"]}).to_batches()[0]

    for pipeline in (pandas_times, polars_times, arrow_times):
        [x, y] = run(pipeline, [b"{}", b"{}"]).tables[0].rows
        assert (x, y) == (("x", 3, at), ("y", None, None))
        assert [type(value) for value in x] == [str, int, datetime.datetime]


@protheon.pipeline()
def of_lines(lines: list[bytes]) -> Iterator[Visit | Page]:
    for i, line in reversed(list(enumerate(lines))):
        if line == b"bad":
            raise ValueError("bad page")
        if line == b"filtered":
            yield i, protheon.FILTERED  # type: ignore[misc]
        elif line == b"refused":
            yield i, Page("taken back")  # type: ignore[misc]
            yield i, protheon.Reject("no good")  # type: ignore[misc]
        elif line == b"part":
            yield i, protheon.Reject("half", part="p")  # type: ignore[misc]
        elif line != b"lost":
            yield i, Visit(line.decode())  # type: ignore[misc]
            yield i, (Page, {"page": line.decode()})  # type: ignore[misc]


def test_a_list_of_lines_gives_rows_and_verdicts_by_index() -> None:
    batch = run(of_lines, [b"a", b"", b"filtered", b"refused", b"part", b"lost", b"z"])
    assert [row[0] for row in batch.tables[0].rows] == ["a", "z"]
    assert batch.tables[1].rows == [("a",), ("z",)]
    assert batch.tables[1].ends == [1, 1, 1, 1, 1, 1, 2]
    assert (batch.blank, batch.filtered, batch.parts) == ([1], [2], [Verdict(4, "half", "p")])
    assert batch.rejected == [Verdict(3, "no good"), Verdict(5, "vanished: the pipeline gave neither a row nor a verdict")]


def test_bad_lines_are_found_by_halving_and_the_rest_is_loaded() -> None:
    lines = [b"bad" if i in (3, 40, 41, 99) else b"%d" % i for i in range(100)]
    batch = run(of_lines, lines)
    assert [verdict.index for verdict in batch.rejected] == [3, 40, 41, 99]
    assert batch.rejected[0].reason.startswith("ValueError: bad page (test_batch_pipelines.py:")
    assert [row[0] for row in batch.tables[0].rows] == [line.decode() for line in lines if line != b"bad"]


def test_dicts_carry_their_line() -> None:
    @protheon.pipeline(tables=[Visit])
    def dicts(lines: list[bytes]) -> Any:
        return [{"_line": i, "page": line.decode()} for i, line in enumerate(lines)]

    assert run(dicts, [b"", b"a"]).tables[0].rows == [("a", None, None)]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (pandas.DataFrame({"page": ["a"]}), "no column '_line'"),
        (pandas.DataFrame({"page": ["a"], "_line": [7]}), "_line is 7, but the function was given 1 lines"),
        ([("a", None, None)], r"gives \(line, row\) or a dict"),
        ({"other": pandas.DataFrame()}, "'other' is not among the pipeline's tables"),
        ({"visits": [1]}, "which is no frame"),
        (None, "returned NoneType"),
    ],
)
def test_an_answer_that_no_line_can_be_blamed_for_fails_the_chunk(result: Any, message: str) -> None:
    @protheon.pipeline(tables=[Visit])
    def fixed(lines: list[bytes]) -> Any:
        return result

    with pytest.raises(ConfigError, match=message):
        run(fixed, [b"x"])


def test_a_batch_of_blank_lines_does_not_reach_the_function() -> None:
    @protheon.pipeline(tables=[Visit])
    def never(lines: list[bytes]) -> Any:
        raise MemoryError

    assert run(never, [b"", b"\t"]).blank == [0, 1]
    assert run(never, []).n_lines == 0


def test_each_call_of_a_batch_function_is_progress() -> None:
    told: list[str] = []

    @protheon.pipeline(tables=[Visit])
    def visits(lines: list[bytes]) -> Iterator[tuple[int, Visit]]:
        told.append(f"{len(lines)} lines")
        if b"bad" in lines:
            raise ValueError("bad")
        for index, line in enumerate(lines):
            yield index, Visit(page=line.decode())

    context = ChunkContext(7, 1, "visits.jsonl", progress=lambda: told.append("progress"))
    visits.open(context).transform([b"a", b"bad"], (1, 2))
    assert told == ["progress", "2 lines", "progress", "1 lines", "progress", "1 lines"]


ANY = protheon.Table(name="anything", columns=(protheon.Column("n", "bigint"), protheon.Column("d", "jsonb")))
BIG = 2**62 + 1


@protheon.pipeline(tables=[ANY])
def any_pandas(frame: pandas.DataFrame) -> pandas.DataFrame:
    return frame


@protheon.pipeline(tables=[ANY])
def any_polars(frame: polars.DataFrame) -> polars.DataFrame:
    return frame


@protheon.pipeline(tables=[ANY])
def any_arrow(frame: pyarrow.Table) -> pyarrow.Table:
    return frame


@pytest.mark.parametrize("pipeline", [any_pandas, any_polars, any_arrow])
@pytest.mark.parametrize(
    "other",
    [
        b'{"n":1.5}',
        b'{"n":"x"}',
        b'{"n":null}',
        b'{"n":{"a":1}}',
        b'{"n":[1]}',
        b'{"n":true}',
        b"{}",
        b'{"n":%d}' % 2**64,
        b'{"stranger":1}',
    ],
    ids=bytes.decode,
)
def test_what_another_line_has_changes_no_value(pipeline: Pipeline, other: bytes) -> None:
    batch = run(pipeline, [b'{"n":%d}' % BIG, other, b'{"n":%d}' % BIG])
    [first, *_, last] = batch.tables[0].rows
    assert (first, last) == ((BIG, None), (BIG, None))
    assert type(first[0]) is int
    assert {verdict.index for verdict in batch.rejected} <= {1}


@pytest.mark.parametrize("pipeline", [any_pandas, any_polars, any_arrow])
@pytest.mark.parametrize(
    "other", [b'{"d":5}', b'{"d":{"a":"x"}}', b'{"d":{"\\u0000":1}}', b'{"d":{"a":[1]}}', b'{"d":' + b"[" * 300 + b"]" * 300 + b"}"]
)
def test_what_another_line_has_changes_no_document(pipeline: Pipeline, other: bytes) -> None:
    batch = run(pipeline, [b'{"d":{"a":1}}', other, b'{"d":{"a":2}}'])
    [first, *_, last] = batch.tables[0].rows
    assert (first, last) == ((None, b'{"a":1}'), (None, b'{"a":2}'))


def test_half_of_a_batch_has_the_columns_of_the_whole() -> None:
    @protheon.pipeline(tables=[Visit])
    def pages(frame: polars.DataFrame) -> polars.DataFrame:
        if (frame["page"] == "bad").any():
            raise ValueError("bad")
        return frame.select("_line", "page", "n")  # n is in one line only

    batch = run(pages, [b'{"page":"a","n":1}', b'{"page":"b"}', b'{"page":"bad"}', b'{"page":"c"}'])
    assert [row[:2] for row in batch.tables[0].rows] == [("a", 1), ("b", None), ("c", None)]


def test_a_panic_of_polars_is_the_reject_of_its_line() -> None:
    @protheon.pipeline(tables=[Visit])
    def panicking(frame: polars.DataFrame) -> polars.DataFrame:
        if frame["page"].dtype == polars.Object:
            frame.group_by("page").agg(polars.len())  # hashes Python's objects: a list has no hash
        return frame.filter(polars.col("page").is_not_null()).with_columns(page=polars.lit("p"))

    batch = run(panicking, [b'{"page":["x",1]}', b'{"page":"a"}'])
    assert [row[0] for row in batch.tables[0].rows] == ["p"]
    assert batch.rejected[0].reason.startswith("PanicException: ")
