"""A pipeline on the first lines of a file: what it shows is what a chunk would load and refuse."""

from __future__ import annotations

import bz2
import datetime
import gzip
import lzma
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pandas
import polars
import pyarrow  # type: ignore[import-untyped]
import pytest
import zstandard

import protheon_dask as protheon
from protheon_dask.errors import ConfigError, NotFound, SourceDamaged
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.pipelines.sample import write_sample
from protheon_dask.run.preview import Head, Preview
from protheon_dask.workspace.cut import LineBatch


class Visit(protheon.Row, table="web.visits", primary_key="page", on_conflict="ignore"):
    page: str
    n: Annotated[int, "integer"]


class Tag(protheon.Row, table="web.tags"):
    page: str
    tag: str


class Line(msgspec.Struct):
    page: str
    n: int = 0
    tags: list[str] = msgspec.field(default_factory=list)


@protheon.pipeline
def by_struct(line: Line) -> Visit:
    return Visit(line.page, line.n)


@protheon.pipeline(tables=[Visit])
def by_dict(line: dict[str, Any]) -> dict[str, Any]:
    return {"page": line["page"], "n": line.get("n", 0)}


@protheon.pipeline(tables=[Visit])
def by_bytes(line: bytes) -> tuple[str, int]:
    decoded = msgspec.json.decode(line, type=Line)
    return decoded.page, decoded.n


@protheon.pipeline
def by_row(line: Visit) -> Visit:
    return line


@protheon.pipeline(tables=[Visit])
def by_batch(lines: list[bytes]) -> Iterator[tuple[int, Any]]:
    for index, line in enumerate(lines):
        decoded = msgspec.json.decode(line, type=Line)
        yield index, (decoded.page, decoded.n)


@protheon.pipeline(tables=[Visit])
def by_pandas(frame: pandas.DataFrame) -> Any:
    return frame


@protheon.pipeline(tables=[Visit])
def by_polars(frame: polars.DataFrame) -> Any:
    return frame


@protheon.pipeline(tables=[Visit])
def by_arrow(frame: pyarrow.Table) -> Any:
    return frame


FORMS = [by_struct, by_dict, by_bytes, by_row, by_batch, by_pandas, by_polars, by_arrow]
TWO = b'{"page":"a","n":1}\n{"page":"b","n":2}\n'


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pipeline", FORMS, ids=lambda pipeline: pipeline.name)
def test_every_form_shows_its_rows_with_their_lines(pipeline: Pipeline, tmp_path: Path) -> None:
    shown = pipeline.preview(written(tmp_path / "v.jsonl", b'{"page":"a","n":1}\n \n{"page":"b","n":2}\n{"page":\n'))
    [table] = shown.tables
    assert (table.table.name, table.columns) == ("web.visits", ("page", "n"))
    assert (table.line_nos, table.rows) == ((1, 3), (("a", 1), ("b", 2)))
    assert (shown.n_lines, shown.loaded, shown.blank, shown.rejected, shown.is_whole) == (4, 2, (2,), 1, True)
    [reject] = shown.rejects
    assert (reject.line_no, reject.byte_offset, reject.line, reject.line_bytes) == (4, 40, b'{"page":', 8)


def test_a_generator_with_several_tables_and_parts_shows_each(tmp_path: Path) -> None:
    @protheon.pipeline(tables=[Visit, Tag])
    def both(line: Line) -> Iterator[Any]:
        if line.page == "skip":
            yield protheon.FILTERED
            return
        yield Visit(line.page, line.n)
        for at, tag in enumerate(line.tags):
            yield Tag(line.page, tag) if tag else protheon.Reject("an empty tag", part=f"tags[{at}]")

    path = written(tmp_path / "v.jsonl", b'{"page":"a","tags":["x","","y"]}\n{"page":"skip"}\n')
    shown = both.preview(path)
    assert [(table.line_nos, table.rows) for table in shown.tables] == [((1,), (("a", 0),)), ((1, 1), (("a", "x"), ("a", "y")))]
    assert (shown.loaded, shown.filtered, shown.rejected) == (1, (2,), 0)
    assert [(reject.line_no, reject.part, reject.reason) for reject in shown.rejects] == [(1, "tags[1]", "an empty tag")]
    assert "1 part of a line" in repr(shown)


def test_jsonl_shows_its_documents_and_the_table_that_it_would_make(tmp_path: Path) -> None:
    path = written(tmp_path / "My Events.jsonl", b'{"a": 1}\n[\n7\n"\\u0000"\n')
    shown = protheon.preview("jsonl", path)
    [table] = shown.tables
    assert (table.table.name, table.columns) == ("public.my_events", ("load_id", "line_no", "doc"))
    assert table.rows == ((0, 1, '{"a": 1}'), (0, 3, "7"))
    assert [reject.line_no for reject in shown.rejects] == [2, 4]
    assert any("load_id is 0 here" in note for note in shown.notes)
    assert protheon.preview("jsonl", path, table="raw.events").tables[0].table.name == "raw.events"


def test_a_built_in_pipeline_is_named(tmp_path: Path) -> None:
    write_sample(tmp_path / "reports.jsonl.zst", 20, seed=3, shape="dump", n_bad=2)
    shown = protheon.preview("pgcr", tmp_path / "reports.jsonl.zst", n=20)
    assert len(shown.tables) == 5
    assert (shown.n_lines, shown.loaded + shown.rejected + len(shown.blank)) == (20, 20)
    assert len(shown.tables[0].rows) == shown.loaded > 15


@pytest.mark.parametrize(
    ("name", "pack"),
    [("v.txt", bytes), ("v.zst", zstandard.compress), ("v.gz", gzip.compress), ("v.bz2", bz2.compress), ("v.xz", lzma.compress)],
)
def test_archives_of_all_kinds_are_read(name: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    shown = by_struct.preview(written(tmp_path / name, pack(TWO)), 1)
    assert (shown.tables[0].rows, shown.is_whole) == ((("a", 1),), False)


def test_lines_are_cut_as_a_split_cuts_them(tmp_path: Path) -> None:
    shown = by_struct.preview(written(tmp_path / "v.jsonl", b'\xef\xbb\xbf{"page":"a","n":1}\r\n\t\r\n{"page":"b","n":2}'))
    assert (shown.tables[0].rows, shown.blank, shown.is_whole) == ((("a", 1), ("b", 2)), (2,), True)
    assert by_struct.preview(written(tmp_path / "empty", b"")).n_lines == 0
    assert "has no lines" in repr(by_struct.preview(tmp_path / "empty"))


def test_a_url_and_a_directory_are_read_as_a_load_reads_them(tmp_path: Path) -> None:
    written(tmp_path / "1.jsonl", TWO)
    written(tmp_path / "2.jsonl", b"never read")
    shown = by_struct.preview(tmp_path)
    assert (shown.path, shown.notes[0]) == (str(tmp_path / "1.jsonl"), "the first of 2 files")
    assert by_struct.preview(f"file://{tmp_path}/1.jsonl").loaded == 2


def test_n_lines_are_shown_and_a_batch_is_never_larger_than_a_workers(tmp_path: Path) -> None:
    sizes: list[int] = []

    @protheon.pipeline(tables=[Visit])
    def counting(lines: list[bytes]) -> Any:
        sizes.append(len(lines))
        return [(index, (str(index), index)) for index in range(len(lines))]

    path = written(tmp_path / "v.txt", b"x\n" * 5_000)
    shown = counting.preview(path, 4_500)
    assert (sizes, shown.n_lines, shown.is_whole) == ([2_000, 2_000, 500], 4_500, False)
    assert (shown.tables[0].line_nos[0], shown.tables[0].line_nos[-1]) == (1, 4_500)
    assert ".. and 4,450 more rows" in repr(shown)
    assert counting.preview(path, 5_000).is_whole
    for wrong in (0, -1, "5", True):
        with pytest.raises(ConfigError, match="no number of lines"):
            counting.preview(path, wrong)  # type: ignore[arg-type]


def test_what_postgresql_would_refuse_is_refused_here_with_its_sqlstate(tmp_path: Path) -> None:
    columns = [("i", "integer"), ("v", "varchar(3)"), ("c", "char"), ("t", "timestamptz"), ("a", "smallint[]"), ("x", "mood")]
    values = protheon.Table(name="public.v", columns=tuple(protheon.Column(*one) for one in columns), primary_key=("i",))
    good = {"i": 1, "v": "abc", "c": "c", "t": "2026-01-01T10:00:00Z", "a": [1, 2], "x": "any"}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"i": 2**31}, "22003"),
        ({"i": None}, "23502"),
        ({"v": "abcd"}, "22001"),
        ({"v": "a\0"}, "22021"),
        ({"c": "cc"}, "22001"),
        ({"t": "2026-01-01T10:00:00"}, "22P02"),
        ({"a": [40_000]}, "22003"),
        ({"v": 5}, "22P02"),
    ]

    @protheon.pipeline(tables=[values])
    def told(line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line.values())

    lines = [good, *({**good, **change} for change, _ in bad), {**good, "v": "abc   "}, {"i": 1}]
    shown = told.preview(written(tmp_path / "v.jsonl", b"\n".join(map(msgspec.json.encode, lines))), 100)
    assert [(reject.line_no, reject.sqlstate) for reject in shown.rejects[:-1]] == [(at, state) for at, (_, state) in enumerate(bad, 2)]
    assert "has 6 columns, the row 1 values" in shown.rejects[-1].reason
    assert shown.tables[0].line_nos == (1, 2 + len(bad))  # blanks beyond the length are cut off
    assert "PostgreSQL was not asked" in shown.notes[-1]


def test_a_line_that_one_table_refuses_is_in_no_table(tmp_path: Path) -> None:
    @protheon.pipeline(tables=[Visit, Tag])
    def both(line: Line) -> Any:
        return [Visit(line.page, line.n), Tag(line.page, "t")]

    shown = both.preview(written(tmp_path / "v.jsonl", b'{"page":"a","n":5000000000}\n{"page":"b"}\n'))
    assert [table.line_nos for table in shown.tables] == [(2,), (2,)]
    assert (shown.loaded, shown.rejected) == (1, 1)


def test_what_is_no_lines_fault_is_raised_as_it_is(tmp_path: Path) -> None:
    @protheon.pipeline(tables=[Visit])
    def short(line: bytes) -> Any:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        short.preview(written(tmp_path / "v.txt", b"x\n"))


def test_paths_that_are_not_there_and_names_that_mean_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.jsonl: no such file"):
        by_struct.preview(tmp_path / "gone.jsonl")
    with pytest.raises(NotFound, match="no pipeline is called 'pgrc'"):
        protheon.preview("pgrc", written(tmp_path / "v.txt", b"x"))
    with pytest.raises(ConfigError, match="names its own tables"):
        protheon.preview(by_struct, tmp_path / "v.txt", table="a.b")


def test_a_damaged_archive_shows_what_is_before_its_damage(tmp_path: Path) -> None:
    whole = zstandard.compress(TWO) + zstandard.compress(TWO * 1_000)
    shown = by_struct.preview(written(tmp_path / "v.zst", whole[:-20]), 50)
    assert shown.tables[0].rows[:2] == (("a", 1), ("b", 2))
    assert not shown.is_whole
    assert any("damaged" in note for note in shown.notes)
    with pytest.raises(SourceDamaged):
        by_struct.preview(written(tmp_path / "w.zst", zstandard.compress(b"\n".join([TWO] * 99))[:12]))


def test_a_line_beyond_the_limit_is_refused_without_a_look_at_what_is_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTHEON_MAX_LINE_BYTES", "1000")
    within = by_struct.preview(written(tmp_path / "v.txt", TWO + b"x" * 2_000 + b"\n" + TWO), 9)
    assert (within.loaded, within.rejects[0].line_no, within.rejects[0].line_bytes) == (4, 3, 2_001)
    assert within.rejects[0].reason == "the line has 2,001 bytes, more than max_line_bytes"
    beyond = by_struct.preview(written(tmp_path / "v.txt", TWO + b"x" * (3 << 20)), 9)
    assert (beyond.loaded, beyond.n_lines, beyond.is_whole) == (2, 2, False)
    assert "line 3 has more than max_line_bytes (1,000)" in beyond.notes[0]


def test_the_head_gives_the_lines_of_the_source_in_pieces(tmp_path: Path) -> None:
    head = Head(str(written(tmp_path / "v.txt", b"a\nb\nc\n")), 2, 1_000)
    [batch] = head
    assert isinstance(batch, LineBatch)
    assert (batch.lines, batch.n_lines, head.is_whole) == ([b"a", b"b"], 2, False)


def hostile(tmp_path: Path) -> Preview:
    @protheon.pipeline(
        tables=[protheon.Table(name="t.<b>x</b>", columns=(protheon.Column("<i>", "text"), protheon.Column("d", "numeric")))]
    )
    def odd(line: bytes) -> Any:
        if line.startswith(b"bad"):
            raise ValueError("<script>alert(1)</script>")
        return line.decode("latin-1"), Decimal("1.50")

    lines = b"<img src=x onerror=alert(1)>\x1b[31m\n\xe2\x80\xae" + b"y" * 3_000 + b"\nbad \xff\x00<script>\n"
    made = odd.preview(written(tmp_path / "<u>&.txt", lines))
    assert isinstance(made, Preview)
    return made


def test_the_text_is_plain_lines_whatever_the_values_are(tmp_path: Path) -> None:
    text = repr(hostile(tmp_path))
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert "bad \\xff\\x00<script>" in text
    assert "line  <i>" in text.replace("line   ", "line  ")
    assert all(len(line) < 250 for line in text.splitlines())
    assert "1.50" in text


def test_the_html_holds_nothing_but_text_of_foreign_origin(tmp_path: Path) -> None:
    html = hostile(tmp_path)._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "<u>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<table") == html.count("</table>") == 2


def test_values_of_every_kind_are_shown(tmp_path: Path) -> None:
    kinds = protheon.Table(
        name="t.kinds", columns=tuple(protheon.Column(f"c{n}", kind) for n, kind in enumerate(("timestamptz", "bytea", "jsonb", "text")))
    )

    @protheon.pipeline(tables=[kinds])
    def all_kinds(line: bytes) -> Any:
        return datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), line, {"a": [1, None]}, None

    text = repr(all_kinds.preview(written(tmp_path / "v.txt", b"\x01z\n")))
    for shown in ("2026-01-02T00:00:00+00:00", "\\x017a", '{"a":[1,null]}', "NULL"):
        assert shown in text
