"""A pipeline run once more: the error as the author's code raised it, at the line of the code that did."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from typing import Any

import msgspec
import pandas
import pytest

import protheon_dask as protheon
from protheon_dask.errors import Reject
from protheon_dask.pipelines.jsonl import jsonl
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.retrace import Retraced, retrace_chunk, retrace_line

T = protheon.Table(name="public.t", columns=(protheon.Column("n", "bigint"), protheon.Column("s", "text")))
CONTEXT = ChunkContext(1, 2, "t.jsonl")


class Line(msgspec.Struct):
    n: int
    s: str = ""


@protheon.pipeline(tables=[T])
def by_struct(line: Line) -> Iterator[Any]:
    if line.n == 0:
        raise ValueError("zero")
    if line.n == 1:
        raise Reject("one")
    yield (line.n, line.s)
    if line.n == 2:
        yield Reject("two")
    if line.n == 3:
        yield (line.n,)
    if line.n == 4:
        yield Reject("four", part="p")
        yield Reject("and four", part="q")


def retraced(pipeline: Pipeline, line: bytes, part: str | None = None) -> Retraced:
    return retrace_line(pipeline, CONTEXT, line, 7, part)


def raised_at(error: BaseException | None) -> str:
    """The innermost line of this file in the error's traceback."""
    assert error is not None
    found, traceback = "", error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == __file__:
            found = linecache.getline(__file__, traceback.tb_lineno).strip()
        traceback = traceback.tb_next
    return found


@pytest.mark.parametrize(
    ("n", "kind", "said", "at"),
    [
        (0, ValueError, "zero", 'raise ValueError("zero")'),
        (1, Reject, "one", 'raise Reject("one")'),
        (2, Reject, "two", 'yield Reject("two")'),
        (3, Reject, "has 2 columns, the row 1 values", "yield (line.n,)"),
    ],
)
def test_an_error_stands_where_the_code_gave_it(n: int, kind: type[Exception], said: str, at: str) -> None:
    seen = retraced(by_struct, b'{"n":%d}' % n)
    assert type(seen.error) is kind
    assert said in str(seen.error)
    assert raised_at(seen.error) == at


def test_a_line_that_passes_has_its_rows_and_no_error() -> None:
    seen = retraced(by_struct, b'{"n":9,"s":"x"}')
    assert seen.error is None
    assert seen.made is not None
    assert seen.made.tables[0].rows == [(9, "x")]


def test_a_part_is_followed_to_its_own_yield() -> None:
    assert retraced(by_struct, b'{"n":4}').error is None
    assert raised_at(retraced(by_struct, b'{"n":4}', "q").error) == 'yield Reject("and four", part="q")'
    assert retraced(by_struct, b'{"n":4}', "r").error is None


def test_a_line_that_is_no_document_raises_the_decoders_own_error() -> None:
    assert isinstance(retraced(by_struct, b'{"n":').error, msgspec.DecodeError)
    assert isinstance(retraced(by_struct, b'{"n":"x"}').error, msgspec.ValidationError)
    assert isinstance(retraced(by_struct, b"\xff").error, msgspec.DecodeError)
    assert retraced(by_struct, b" ").error is None


def test_what_has_no_place_in_the_code_is_a_reject_with_its_reason() -> None:
    @protheon.pipeline(tables=[T])
    def nothing(line: bytes) -> Any:
        return None if line == b"none" else [(1, "a"), Reject("in a list")]

    assert "vanished" in str(retraced(nothing, b"none").error)
    assert str(retraced(nothing, b"list").error) == "in a list"
    assert isinstance(retraced(jsonl("t"), b"{").error, Reject)
    assert isinstance(retraced(pgcr, b"{}").error, Reject)


def test_code_that_takes_the_verdict_for_its_own_does_not_hide_it() -> None:
    @protheon.pipeline(tables=[T])
    def catching(line: bytes) -> Iterator[Any]:
        try:
            yield Reject("kept")
        except Reject:
            yield (1, "a")

    assert str(retraced(catching, b"x").error) == "kept"


def test_batch_functions_and_frames_raise_as_they_did() -> None:
    @protheon.pipeline(tables=[T])
    def frames(frame: pandas.DataFrame) -> Any:
        return frame.assign(n=1 // int(frame["n"].iloc[0]))

    seen = retraced(frames, b'{"n":0,"s":"x"}')
    assert isinstance(seen.error, ZeroDivisionError)
    assert raised_at(seen.error) == 'return frame.assign(n=1 // int(frame["n"].iloc[0]))'
    assert isinstance(retraced(frames, b"{").error, msgspec.DecodeError)


def batches(n_lines: int) -> Iterator[tuple[list[bytes], list[int]]]:
    for start in range(0, n_lines, 8):
        line_nos = list(range(start + 1, min(start + 8, n_lines) + 1))
        yield [b"%d" % n for n in line_nos], line_nos


def test_a_chunk_is_followed_to_the_line_that_no_verdict_can_be_given_on() -> None:
    @protheon.pipeline(tables=[T])
    def breaking(line: bytes) -> Any:
        if line == b"5":
            raise ValueError("a reject, and no end of the chunk")
        if line == b"21":
            raise MemoryError("no room")
        return int(line), ""

    broken = retrace_chunk(breaking, CONTEXT, batches(30))
    assert broken is not None
    assert (broken.indexes, str(broken.error)) == ([20], "no room")
    assert retrace_chunk(breaking, CONTEXT, batches(20)) is None


def test_lines_that_break_a_batch_together_are_all_named() -> None:
    @protheon.pipeline(tables=[T])
    def together(lines: list[bytes]) -> Any:
        if b"10" in lines and b"15" in lines:
            raise MemoryError("both")
        return [(index, (int(line), "")) for index, line in enumerate(lines)]

    broken = retrace_chunk(together, CONTEXT, batches(30))
    assert broken is not None
    assert list(broken.indexes) == list(range(8, 16))
