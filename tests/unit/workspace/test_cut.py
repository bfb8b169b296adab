"""Cutting is a function of the bytes and the limits: held against a rule written line by line."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.workspace import cut
from protheon_dask.workspace.cut import BOM, Cut, Cutter, LineBatch, Lines, batches, count_lf, nth_line_end

TEXT = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"{}", BOM, b" \t", b"x" * 40, b"\0", b"\xff"]), max_size=60).map(b"".join)
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def blocks_of(data: bytes, sizes: list[int]) -> list[bytes]:
    """Divide data into blocks whose sizes go round."""
    blocks, pos, i = [], 0, 0
    while pos < len(data):
        blocks.append(data[pos : pos + sizes[i % len(sizes)]])
        pos, i = pos + sizes[i % len(sizes)], i + 1
    return blocks


def physical_lines(data: bytes) -> list[bytes]:
    """The lines with their LF, one by one."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def chunks_by_the_book(data: bytes, max_lines: int, max_raw: int, max_line: int) -> list[tuple[list[bytes], bool]]:
    """DESIGN 2 as a loop over lines: (lines, oversized) of each chunk."""
    chunks: list[tuple[list[bytes], bool]] = []
    chunk: list[bytes] = []
    for line in physical_lines(data):
        oversized = len(line.removesuffix(b"\n")) > max_line
        if chunk and (oversized or sum(map(len, chunk)) + len(line) > max_raw or len(chunk) == max_lines):
            chunks.append((chunk, False))
            chunk = []
        if oversized:
            chunks.append(([line], True))
        else:
            chunk.append(line)
    return [*chunks, (chunk, False)] if chunk else chunks


def cut_all(cutter: Cutter, blocks: list[bytes], *, whole_only: bool = False) -> list[tuple[bytes, Cut]]:
    chunks: list[tuple[bytes, Cut]] = []
    raw = b""
    for steps in [*(cutter.feed(block) for block in blocks), cutter.finish(whole_only=whole_only)]:
        for step in steps:
            if isinstance(step, Cut):
                chunks.append((raw, step))
                raw = b""
            else:
                assert len(step.data) > 0
                raw += step.data
    return chunks


@given(TEXT, SIZES, st.integers(1, 9), st.integers(1, 90), st.integers(0, 60))
def test_chunks_are_those_of_the_rule_however_the_blocks_are_divided(
    data: bytes, sizes: list[int], max_lines: int, max_raw: int, max_line: int
) -> None:
    chunks = cut_all(Cutter(max_lines, max_raw, max_line), blocks_of(data, sizes))
    assert [(raw, c.oversized) for raw, c in chunks] == [
        (b"".join(lines), oversized) for lines, oversized in chunks_by_the_book(data, max_lines, max_raw, max_line)
    ]
    line_no, offset = 1, 0
    for raw, c in chunks:
        assert (c.first_line, c.byte_offset, c.raw_bytes, c.n_lines) == (line_no, offset, len(raw), len(physical_lines(raw)))
        line_no, offset = line_no + c.n_lines, offset + c.raw_bytes


@given(TEXT, SIZES, st.integers(1, 9), st.integers(0, 60))
def test_of_a_source_that_is_damaged_only_whole_lines_are_cut(data: bytes, sizes: list[int], max_lines: int, max_line: int) -> None:
    whole = data[: data.rfind(b"\n") + 1]
    chunks = cut_all(Cutter(max_lines, sys.maxsize, max_line), blocks_of(data, sizes), whole_only=True)
    assert b"".join(raw for raw, _ in chunks) == whole


@given(TEXT, SIZES, st.integers(0, 60))
def test_line_no_is_the_line_of_the_next_byte(data: bytes, sizes: list[int], max_line: int) -> None:
    cutter, fed = Cutter(3, sys.maxsize, max_line), b""
    for block in blocks_of(data, sizes):
        cutter.feed(block)
        fed += block
        assert cutter.line_no == 1 + fed.count(b"\n")


def test_an_overlong_line_is_scanned_past_without_being_kept() -> None:
    cutter = Cutter(10, 1 << 30, 1 << 20)
    assert cutter.feed(b"a\n" + b"x" * 100)
    assert not cutter.feed(b"x" * (1 << 19))
    cutter.feed(b"x" * (1 << 20))
    for _ in range(50):
        steps = cutter.feed(b"x" * (1 << 20))
        assert [len(step.data) for step in steps if not isinstance(step, Cut)] == [1 << 20], "given at once, not held"
    [_, end, *_] = cutter.feed(b"x\nb\n")
    assert isinstance(end, Cut)
    assert (end.first_line, end.n_lines, end.oversized) == (2, 1, True)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=200), st.data())
def test_the_nth_line_is_found_and_lines_are_counted_in_short_and_long_ones(lengths: list[int], data: st.DataObject) -> None:
    block = b"".join(b"x" * n + b"\n" for n in lengths)
    start = data.draw(st.integers(0, len(block) - 1))
    assert count_lf(block, start, len(block)) == block.count(b"\n", start)
    n = data.draw(st.integers(1, block.count(b"\n", start)))
    end = nth_line_end(block, start, len(block), n)
    assert block[end - 1 : end] == b"\n"
    assert block.count(b"\n", start, end) == n


def test_counting_takes_both_ways() -> None:
    short, long = b"ab\n" * 1000, (b"x" * 1000 + b"\n") * 100
    assert (count_lf(short, 0, len(short)), count_lf(long, 1, len(long) - 1)) == (1000, 99)


@pytest.mark.parametrize(
    ("raw", "line"),
    [(b"a\n", b"a"), (b"a\r\n", b"a"), (b"a\r\r\n", b"a\r"), (b"a\rb\n", b"a\rb"), (BOM + b"a\r\n", b"a"), (b"a\r", b"a"), (b"\n", b"")],
)
def test_a_pipeline_gets_a_line_without_lf_one_cr_and_bom(raw: bytes, line: bytes) -> None:
    assert LineBatch(raw, 1, 0).lines == [line]


def test_a_bom_belongs_to_line_1_alone() -> None:
    data = BOM + b"a\n" + BOM + b"b\n"
    assert LineBatch(data, 1, 0).lines == [b"a", BOM + b"b"]
    assert LineBatch(data, 5, 100).lines == [BOM + b"a", BOM + b"b"]


@given(TEXT, SIZES, st.integers(1, 7), st.integers(1, 90), st.integers(1, 5), st.integers(0, 1000))
def test_batches_give_every_line_once_with_its_number_and_offset(
    data: bytes, sizes: list[int], max_lines: int, max_bytes: int, first_line: int, byte_offset: int
) -> None:
    physical, line_no, offset = physical_lines(data), first_line, byte_offset
    for batch in batches(blocks_of(data, sizes), first_line, byte_offset, max_lines, max_bytes):
        assert (batch.first_line_no, batch.byte_offset, batch.n_lines) == (line_no, offset, len(batch.lines))
        assert 1 <= batch.n_lines <= max_lines
        assert batch.raw_bytes <= max_bytes or batch.n_lines == 1
        assert LineBatch(batch.data, line_no, offset).n_lines == batch.n_lines
        for i in range(batch.n_lines):
            raw = physical.pop(0)
            assert batch.raw_line(i) == raw.removesuffix(b"\n")
            assert batch.offset_of(i) == offset
            seen = batch.raw_line(i).removesuffix(b"\r")
            assert batch.lines[i] == (seen.removeprefix(BOM) if line_no == 1 else seen)
            line_no, offset = line_no + 1, offset + len(raw)
    assert not physical


def test_batches_are_lazy() -> None:
    taken: list[int] = []

    def source() -> list[bytes]:
        taken.append(1)
        return [b"a\n"]

    iterator = batches((block for _ in range(9) for block in source()), 1, 0, max_lines=2)
    assert next(iterator).lines == [b"a", b"a"]
    assert len(taken) == 2


def test_steps_are_views_of_the_block_and_no_copies() -> None:
    block = b"a\nb\n" * 1000
    [lines] = Cutter(10_000, 1 << 30, 1 << 20).feed(block)
    assert isinstance(lines, Lines)
    assert lines.data.obj is block
    assert len(lines.data) == len(block)
    assert cut.BATCH_LINES == 2_000
