"""Every line that a file may hold, through every form of pipeline, into real tables: loaded as it is, or refused alone with its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run.conftest import Bench
from tests.integration.run.hostile_lines import CASES

FORMS = {
    "B": "by_bytes",
    "D": "by_dict",
    "S": "by_struct",
    "L": "by_lines",
    "P": "by_pandas",
    "Q": "by_polars",
    "A": "by_arrow",
    "J": "jsonl",
}
WIDE = {"chunk_lines": 50_000, "max_chunk_bytes": 512 << 20, "max_line_bytes": 64 << 20}
GOOD = b'{"id": 9007199254740993, "doc": {"a": 1}, "x": 0.5, "t": "good", "tags": ["a"], "n": 7}'
N_OF_GOOD = (
    "SELECT count(*) FROM public.{} WHERE id = 9007199254740993 AND t = 'good' AND n = 7 AND x = 0.5 AND doc->>'a' = '1' AND tags = '{{a}}'"
)

PIPELINES = """
import datetime, decimal, json
from typing import Annotated, Any
import msgspec, pandas, polars, pyarrow
import protheon_dask as protheon

Column = protheon.Column
TYPES = {
    "id": "bigint", "small": "smallint", "n": "integer", "big": "bigint", "x": "double precision", "r": "real", "num": "numeric",
    "price": "numeric(6,2)", "t": "text", "v": "varchar(5)", "doc": "jsonb", "as_is": "json", "b": "bytea", "ints": "integer[]",
    "tags": "text[]", "at": "timestamptz", "day": "date", "flag": "boolean", "u": "uuid",
}

def table(form):
    return protheon.Table(name="public." + form, columns=tuple(Column(name, type) for name, type in TYPES.items()))

@protheon.pipeline(tables=[table("by_bytes")])
def by_bytes(line: bytes):
    return json.loads(line)  # Python's own: takes NaN, lone surrogates, UTF-16

@protheon.pipeline(tables=[table("by_dict")])
def by_dict(line: dict[str, Any]):
    return line

class Line(msgspec.Struct, forbid_unknown_fields=True):
    id: int | None = None
    small: int | None = None
    n: int | None = None
    big: int | None = None
    x: float | None = None
    r: float | None = None
    num: decimal.Decimal | None = None
    price: decimal.Decimal | None = None
    t: str | None = None
    v: str | None = None
    doc: Any = None
    as_is: Any = None
    b: bytes | None = None
    ints: list[Any] | None = None
    tags: list[str | None] | None = None
    at: datetime.datetime | None = None
    day: datetime.date | None = None
    flag: bool | None = None
    u: str | None = None

@protheon.pipeline(tables=[table("by_struct")])
def by_struct(line: Line):
    return msgspec.structs.astuple(line)

@protheon.pipeline(tables=[table("by_lines")])
def by_lines(lines: list[bytes]):
    return [(place, msgspec.json.decode(line, type=dict)) for place, line in enumerate(lines)]

@protheon.pipeline(tables=[table("by_pandas")])
def by_pandas(frame: pandas.DataFrame):
    return frame

@protheon.pipeline(tables=[table("by_polars")])
def by_polars(frame: polars.DataFrame):
    return frame

@protheon.pipeline(tables=[table("by_arrow")])
def by_arrow(frame: pyarrow.Table):
    return frame
"""


REJECTS = "SELECT line, byte_offset, part, reason, sqlstate, raw, raw_bytes FROM protheon.reject WHERE load_id = %s ORDER BY line"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.py"
    path.write_text(PIPELINES)
    return path


def values_of(bench: Bench, form: str) -> dict[int, dict[str, str | None]]:
    """By id and column, how the stored values of the cases begin."""
    columns = [name for (name,) in bench.ask("SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", form)]
    texts = ", ".join(f"left({name}::text, 40)" for name in columns)
    rows = bench.ask(f"SELECT id, {texts} FROM public.{form} WHERE id <= %s", len(CASES))
    return {id_: dict(zip(columns, values, strict=True)) for id_, *values in rows}


def plain(reason: str) -> str:
    """A reason as the table has it: without the column, places, and all but the class of an error of the author's code."""
    if error := re.match(r"(\w+(?:Error|Exception|Invalid))\b", reason):
        return error[1]
    reason = re.sub(r"^column '\w+' \(.*?\) (?=cannot take)", "", reason)
    return re.sub(r" \(byte \d+\)|by_\w+", "", reason)


@pytest.mark.parametrize("letter", FORMS)
def test_each_line_is_loaded_or_refused_alone(bench: Bench, hostile: Path, letter: str) -> None:
    form = FORMS[letter]
    lines = [GOOD]
    for id_, one in enumerate(CASES, 1):
        lines += [one.line(id_), GOOD]
    bench.submit(b"\n".join(lines) + b"\n", pipeline="jsonl" if form == "jsonl" else f"{hostile}:{form}", **WIDE)

    assert bench.load_all(bench.worker()) == ["succeeded"]

    found = {row[0]: row[1:] for row in bench.ask(REJECTS, bench.load_id)}
    stored = {} if form == "jsonl" else values_of(bench, form)
    wrong: list[tuple[Any, ...]] = []
    n_loaded = len(CASES) + 1
    for id_, one in enumerate(CASES, 1):
        number = 2 * id_
        raw = one.line(id_)
        end = one.ends[letter]
        if end.startswith("="):
            n_loaded += 1
            if number in found:
                wrong.append((raw[:60], end, found[number][2:4]))
            elif one.column is not None and len(end) > 2 and not str(stored[id_][one.column]).startswith(end[2:]):
                wrong.append((raw[:60], end, stored[id_][one.column]))
            continue
        if number not in found:
            wrong.append((raw[:60], end, "loaded"))
            continue
        offset, part, reason, sqlstate, kept, raw_bytes = found.pop(number)
        assert (offset, part) == (sum(len(line) + 1 for line in lines[: number - 1]), None)
        assert (kept, raw_bytes) == (raw[:65_536], len(raw))
        assert len(reason) <= 520
        state, words = end.split(" ", 1)
        if sqlstate != (None if state == "-" else state) or not plain(reason).startswith(words):
            wrong.append((raw[:60], end, (sqlstate, reason)))
    assert wrong == []
    assert not found, "no good neighbour is refused"
    [(total, loaded, rejected)] = bench.ask("SELECT lines, loaded, rejected FROM protheon.attempt WHERE task_id = %s", bench.task_ids[0])
    assert (total, loaded, rejected) == (len(lines), n_loaded, len(lines) - n_loaded)
    if form != "jsonl":
        assert bench.ask(N_OF_GOOD.format(form)) == [(len(CASES) + 1,)]


def test_a_source_of_a_byte_order_mark_is_one_blank_line(bench: Bench) -> None:
    bench.submit(b"\xef\xbb\xbf", pipeline="jsonl", **WIDE)
    assert bench.load_all(bench.worker()) == ["succeeded"]
    assert bench.ask("SELECT lines, blank FROM protheon.attempt WHERE task_id = %s", bench.task_ids[0]) == [(1, 1)]
