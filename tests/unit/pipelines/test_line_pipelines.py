"""Pipelines that are called once a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import protheon_dask as protheon
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.table import BatchRows, Verdict


class Order(protheon.Row, table="shop.orders", primary_key="order_id", on_conflict="ignore"):
    order_id: int
    note: str | None = None


class Line(protheon.Row, table="shop.lines"):
    order_id: int
    item: str


class Raw(msgspec.Struct):
    id: int
    note: str | None = None


PAIRS = protheon.Table(name="pairs", columns=(protheon.Column("a", "bigint", not_null=True), protheon.Column("b", "text")))


def run(pipeline: Pipeline, *lines: bytes) -> BatchRows:
    batch = pipeline.open(ChunkContext(7, 1, "orders.jsonl")).transform(lines, range(1, len(lines) + 1))
    assert batch.n_lines == len(lines)
    with_rows: set[int] = set()
    for table in batch.tables:
        assert len(table.ends) == len(lines)
        assert table.ends == sorted(table.ends)
        assert table.ends[-1:] == [len(table.rows)][: len(lines)]
        with_rows |= {i for i in range(len(lines)) if table.of_lines(i, i + 1)}
    verdicts = [v.index for v in batch.rejected] + batch.filtered + batch.blank
    assert len(verdicts) == len(set(verdicts))
    assert not with_rows & set(verdicts)
    assert batch.n_loaded() == len(lines) - len(verdicts)
    assert with_rows | set(verdicts) | {part.index for part in batch.parts} == set(range(len(lines)))
    return batch


@protheon.pipeline()
def of_bytes(line: bytes) -> Order:
    return Order(int(line))


@protheon.pipeline(tables=[PAIRS])
def of_dict(line: dict[str, Any]) -> Any:
    return line["a"], line.get("b")


@protheon.pipeline(name="structs", version="2")
def of_struct(line: Raw) -> Order:
    return Order(line.id, line.note)


@protheon.pipeline
def of_row(line: Order) -> Order:
    return line


@protheon.pipeline()
def many(line: dict[str, Any]) -> Iterator[Order | Line]:
    yield Order(line["id"])
    for item in line["items"]:
        if not item:
            yield protheon.Reject("an item has no name", part="items")  # type: ignore[misc]
            continue
        yield Line(line["id"], item)


def test_the_name_version_and_tables_come_from_the_function_and_its_return_annotation() -> None:
    assert (of_bytes.name, of_bytes.version, [t.name for t in of_bytes.tables]) == ("of_bytes", "1", ["shop.orders"])
    assert (of_struct.name, of_struct.version) == ("structs", "2")
    assert [table.name for table in many.tables] == ["shop.orders", "shop.lines"]


@pytest.mark.parametrize(
    ("pipeline", "line", "row"),
    [
        (of_bytes, b" 12 ", (12, None)),
        (of_dict, b'{"a":1,"b":"x","a":2}', (2, "x")),
        (of_struct, b'{"id":"3","note":"n","other":[1]}', (3, "n")),
        (of_struct, b'{"id":3.0}', (3, None)),
        (of_row, b'{"order_id":4}', (4, None)),
    ],
)
def test_the_annotation_chooses_the_decoder(pipeline: Pipeline, line: bytes, row: tuple[Any, ...]) -> None:
    assert run(pipeline, line).tables[0].rows == [row]


def test_rows_of_several_tables_stay_with_their_line() -> None:
    batch = run(many, b'{"id":1,"items":["a","b"]}', b"", b'{"id":2,"items":[]}', b'{"id":3,"items":["c",""]}')
    assert batch.tables[0].rows == [(1, None), (2, None), (3, None)]
    assert batch.tables[0].ends == [1, 1, 2, 3]
    assert batch.tables[1].rows == [(1, "a"), (1, "b"), (3, "c")]
    assert batch.tables[1].ends == [2, 2, 2, 3]
    assert batch.blank == [1]
    assert batch.parts == [Verdict(3, "an item has no name", "items")]


@pytest.mark.parametrize("pipeline", [of_bytes, of_dict, of_struct])
def test_blank_lines_are_space_tab_and_carriage_return_alone(pipeline: Pipeline) -> None:
    batch = run(pipeline, b"", b" \t\r", b"\x0c")
    assert batch.blank == [0, 1]
    assert [verdict.index for verdict in batch.rejected] == [2]


@protheon.pipeline(tables=[Order, Line])
def verdicts(line: bytes) -> Any:
    match line:
        case b"filtered":
            return protheon.FILTERED
        case b"raised":
            raise protheon.Reject("no good")
        case b"raised part":
            raise protheon.Reject("half good", part="tail")
        case b"error":
            return int("x1")
        case b"silent":
            raise KeyError
        case b"nothing":
            return None
        case b"empty":
            return []
        case b"a number":
            return 5
        case b"a string":
            return "row"
        case b"list":
            return [Order(1), Line(1, "a")]
        case b"named":
            return [("shop.orders", (2, None)), (Line, {"order_id": 2, "item": "b"}), (Order, [3, "x"])]
        case b"a stranger":
            return [(PAIRS, (2, None))]
        case b"both":
            return [Order(1), protheon.FILTERED]
    raise AssertionError(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"raised", "no good"),
        (b"error", "ValueError: invalid literal for int() with base 10: 'x1' (test_line_pipelines.py:"),
        (b"silent", "KeyError (test_line_pipelines.py:"),
        (b"nothing", "vanished: the pipeline gave neither a row nor a verdict"),
        (b"empty", "vanished: the pipeline gave neither a row nor a verdict"),
        (b"a number", "int is no row: give a Row"),
        (b"a string", "str is no row: give a Row"),
        (b"a stranger", "public.pairs is not among the pipeline's tables: shop.orders, shop.lines"),
        (b"both", "the pipeline gave both FILTERED and rows"),
    ],
)
def test_a_refused_line_has_a_reason_and_no_rows(line: bytes, reason: str) -> None:
    batch = run(verdicts, b"list", line, b"list")
    [verdict] = batch.rejected
    assert verdict.index == 1
    assert verdict.reason.startswith(reason)
    assert batch.tables[0].rows == [(1, None), (1, None)]


def test_the_place_in_the_authors_code_is_named() -> None:
    [verdict] = run(verdicts, b"error").rejected
    assert verdict.reason.endswith(" in verdicts)")


def test_a_filtered_line_a_refused_part_and_named_rows() -> None:
    batch = run(verdicts, b"filtered", b"raised part", b"named")
    assert batch.filtered == [0]
    assert batch.parts == [Verdict(1, "half good", "tail")]
    assert batch.tables[0].rows == [(2, None), (3, "x")]
    assert batch.tables[1].rows == [(2, "b")]


@protheon.pipeline()
def late(line: bytes) -> Iterator[Order | Line]:
    yield Order(1)
    yield Line(1, "a")
    yield protheon.Reject("a part", part="p")  # type: ignore[misc]
    if line == b"yields":
        yield protheon.Reject("the whole")  # type: ignore[misc]
        raise AssertionError("not asked for more")
    if line == b"raises":
        raise protheon.Reject("the whole")
    if line == b"fails":
        raise ValueError("late")


@pytest.mark.parametrize("line", [b"yields", b"raises", b"fails"])
def test_rows_and_parts_before_a_whole_reject_are_taken_back(line: bytes) -> None:
    batch = run(late, b"good", line, b"good")
    assert [verdict.index for verdict in batch.rejected] == [1]
    assert [table.ends for table in batch.tables] == [[1, 1, 2], [1, 1, 2]]
    assert [part.index for part in batch.parts] == [0, 2]


@pytest.mark.parametrize("error", [MemoryError(), ImportError("no such"), ConfigError("bad key")])
def test_what_no_line_can_be_blamed_for_fails_the_chunk(error: Exception) -> None:
    @protheon.pipeline(tables=[Order])
    def broken(line: bytes) -> Any:
        raise error

    with pytest.raises(type(error)):
        run(broken, b"x")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((1,), "table public.pairs has 2 columns, the row 1 values"),
        ({"a": 1, "c": 2}, "table public.pairs: no column 'c'"),
        ({"b": "x"}, "table public.pairs: column 'a' is missing"),
    ],
)
def test_values_that_do_not_fit_the_table_are_the_lines_reject(row: Any, reason: str) -> None:
    @protheon.pipeline(tables=[PAIRS])
    def fixed(line: bytes) -> Any:
        return row

    assert run(fixed, b"x").rejected == [Verdict(0, reason)]


def test_a_dict_row_may_leave_nullable_columns_out() -> None:
    @protheon.pipeline(tables=[PAIRS])
    def fixed(line: bytes) -> Any:
        return {"a": 1}

    assert run(fixed, b"x").tables[0].rows == [(1, None)]


def test_values_of_a_jsonb_column_become_json_text() -> None:
    class Document(protheon.Row, table="document"):
        doc: dict[str, Any]
        ready: Annotated[str, "jsonb"]
        more: Any = None

    @protheon.pipeline()
    def documents(line: bytes) -> Document:
        return Document({"a": [1, None]}, '{"b":2}', [3])

    assert run(documents, b"x").tables[0].rows == [(b'{"a":[1,null]}', '{"b":2}', b"[3]")]


def test_a_string_in_a_document_is_a_value_and_a_field_of_str_is_its_text() -> None:
    class Document(protheon.Row, table="document"):
        doc: Any
        text: Annotated[str | None, "jsonb"] = None

    @protheon.pipeline()
    def documents(line: Document) -> Document:
        return line

    rows = run(documents, b'{"doc":"5"}', b'{"doc":"[1","text":"[1]"}', b'{"doc":5}').tables[0].rows
    assert rows == [(b'"5"', None), (b'"[1"', "[1]"), (b"5", None)]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": [None, {"b": -float("inf")}]}])
def test_nan_is_refused_rather_than_made_null(value: Any) -> None:
    class Document(protheon.Row, table="document"):
        doc: Any

    @protheon.pipeline()
    def documents(line: bytes) -> Document:
        return Document(value if line == b"bad" else {"a": None})

    batch = run(documents, b"good", b"bad")
    assert batch.tables[0].rows == [(b'{"a":null}',)]
    assert batch.rejected[0].reason.startswith("ValueError: NaN and infinity are no JSON")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"id":NaN}', "NaN and Infinity are no JSON"),
        (b'{"id":-Infinity}', "NaN and Infinity are no JSON"),
        (b'{"note":"\\ud800"}', "half of a surrogate pair, which is no character"),
        (b'{"note":"\\ud83d\\ude00\\udc00"}', "half of a surrogate pair, which is no character"),
        (b'{"note":"a', "the line ends before its JSON does"),
        (b'{"note":"a\0"}', "a NUL byte"),
        (b"\0" * 9, "nothing but NUL bytes"),
        ('{"id":1}'.encode("utf-16"), "it looks like UTF-16 or UTF-32; lines are UTF-8"),
        (b'\xef\xbb\xbf{"id":1}', "a byte order mark in the middle of the source"),
        (b'{"id":1}{"id":2}', "a second document on the line"),
    ],
)
@pytest.mark.parametrize("pipeline", [of_dict, of_struct])
def test_the_reason_names_the_cause_as_a_person_would(pipeline: Pipeline, line: bytes, cause: str) -> None:
    [verdict] = run(pipeline, line).rejected
    assert verdict.reason.endswith(f": {cause}")


def test_what_a_struct_does_not_declare_is_not_looked_at() -> None:
    assert run(of_struct, b'{"id":1,"other":"\xff","more":"\\u0000","id":2}').tables[0].rows == [(2, None)]
    assert len(run(of_dict, b'{"a":1,"other":"\xff"}').rejected) == 1


HOSTILE = [
    b"[" * 100_000,
    b'{"id":' + b"[" * 100_000,
    b'{"id":' + b"9" * 400 + b"}",
    b'{"a":' + b"9" * 400 + b"}",
    b'{"a":1e999}',
    b'{"a":1,"b":"\xff\xfe"}',
    b'{"\xff":1}',
    b'{"id":1,"note":"\\ud800"}',
    b'{"id":1,"note":"\\udc00\\ud800"}',
    b"\x00",
    b'{"id":NaN}',
    b"{",
    b'"',
    b"null",
]


@pytest.mark.parametrize("pipeline", [of_bytes, of_dict, of_struct, of_row, many])
@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:24]))
def test_no_line_raises_out_of_transform(pipeline: Pipeline, line: bytes) -> None:
    batch = run(pipeline, line)
    for verdict in batch.rejected:
        verdict.reason.encode()
        assert "\0" not in verdict.reason
        assert len(verdict.reason) <= 520


@given(st.lists(st.binary(max_size=60), max_size=30))
def test_any_bytes_are_accounted_for(lines: list[bytes]) -> None:
    for pipeline in (of_bytes, of_dict, of_struct, many):
        run(pipeline, *lines)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda line: None, "annotate 'line'"),
        (lambda: None, "takes one parameter"),
        (lambda a, b: None, "takes one parameter"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_with_a_lesson(function: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        protheon.pipeline(tables=[Order])(function)


def test_annotations_that_mean_nothing_are_refused() -> None:
    def text(line: str) -> Order: ...

    def unknown(line: Unknown) -> Order: ...  # type: ignore[name-defined]  # noqa: F821  # the point of the test

    def stranger(line: memoryview | complex) -> Order: ...

    with pytest.raises(ConfigError, match="str is no decoder; say bytes"):
        protheon.pipeline(text)
    with pytest.raises(ConfigError, match="'line' cannot be resolved"):
        protheon.pipeline(unknown)
    with pytest.raises(ConfigError, match="msgspec cannot decode"):
        protheon.pipeline(stranger)


def test_a_pipeline_without_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="it has no tables"):

        @protheon.pipeline()
        def nowhere(line: bytes) -> tuple[int, str]: ...


def test_the_function_can_still_be_called() -> None:
    assert of_bytes(b"5") == Order(5)
