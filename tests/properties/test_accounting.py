"""Every line of any file is accounted for once: real ledger, broker, worker and tables, held against PostgreSQL's own judgement."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.run import api
from protheon_dask.run.worker import WorkerProcess
from tests.integration.run.conftest import Bench, bench  # noqa: F401  # the fixture
from tests.properties.effort import examples
from tests.properties.oracle import lines_of

pytestmark = pytest.mark.timeout(1_800)  # with the thorough profile

BOM = b"\xef\xbb\xbf"
NASTY = (
    b"", b" ", b"\t\r", b"\x0b", b"\xc2\xa0", b"\0", b"null", b"true", b"{}", b"[]", b'""', b"1 2", b"{}x", b"[1,]", b"'a'", b"01", b"1.",
    b".5", b"-0", b"-", b"+1", b"1e5", b"1E+400", b"1e-400", b"9" * 400, b"-" + b"9" * 400, b"NaN", b"-Infinity", b"nan", b'"\xff"',
    b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xf0\x9f\x98\x80"', b'"\\u0000"', b'"\\\\u0000"', b'"\\\\\\u0000"',
    b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\ude00\\ud83d"', b'"\\x"', b'"\\u12"', b'"\x01"', b'"\x7f"', b'"a\tb"', b'{"a":1,"a":2}',
    b'{"a"}', b'{a:1}', b'{"\\u0000":1}', b'{1:2}', b"[" * 100, b"[" * 90 + b"]" * 90, b'{"a":' * 50 + b"1" + b"}" * 50, BOM + b"{}",
    b"{}" + BOM, b"/**/1", b"true\x00", b'{"a":1}\r', b"\r{}", b'"' + b"x" * 3_000 + b'"',
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
WRITTEN = st.tuples(JSON, st.booleans()).map(
    lambda drawn: json.dumps(drawn[0], ensure_ascii=drawn[1]).encode("utf-8", "surrogatepass").replace(b"\n", b"")
)
SPOILT = st.tuples(WRITTEN, st.integers(0, 40), st.binary(max_size=2)).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]
)
LINE = st.one_of(st.sampled_from(NASTY), WRITTEN, SPOILT, st.binary(max_size=30)).map(lambda line: line.replace(b"\n", b""))
ARCHIVES = (
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ\x00",
    b"BZh",
    b"PK\x03\x04",
    *(bytes([byte]) + b"\x2a\x4d\x18" for byte in range(0x50, 0x60)),
)
"""How gzip, zstd (and its skippable frames), xz, bzip2 and zip begin: such a file is an archive, whatever it holds."""
FILE = (
    st.tuples(st.lists(LINE, max_size=60), st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans())
    .map(lambda drawn: (BOM if drawn[2] else b"") + drawn[1].join(drawn[0]) + (drawn[1] if drawn[3] else b""))
    .filter(lambda content: not content.startswith(ARCHIVES))
)

# One line alone, as PostgreSQL sees it: its document, or none.
JUDGE = """
CREATE OR REPLACE FUNCTION public.judge(line bytea) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN RETURN convert_from(line, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$
"""


def as_given(lines: list[bytes]) -> list[bytes]:
    """The lines as a pipeline gets them (DESIGN 2)."""
    bare = [line.removesuffix(b"\n").removesuffix(b"\r") for line in lines]
    return [line.removeprefix(BOM) if no == 1 else line for no, line in enumerate(bare, start=1)]


@dataclass(frozen=True)
class Account:
    """What became of a file."""

    bench: Bench

    def counts(self) -> tuple[int, ...]:
        [row] = self.bench.ask(
            """SELECT sum(lines), sum(loaded), sum(filtered), sum(rejected), sum(blank)
                 FROM protheon.attempt WHERE run_id = %s AND outcome = 'succeeded'""",
            self.bench.run_id,
        )
        return tuple(int(n or 0) for n in row)

    def rejects(self) -> dict[int, tuple[int, bytes]]:
        rows = self.bench.ask("SELECT line, byte_offset, raw FROM protheon.reject WHERE load_id = %s", self.bench.load_id)
        assert len(rows) == len({row[0] for row in rows}), "a line was rejected twice"
        return {line: (offset, bytes(raw)) for line, offset, raw in rows}

    def agrees_with(self, lines: list[bytes], loaded: set[int], filtered: set[int], rejected: set[int], blank: set[int]) -> None:
        """Each line has the fate that the oracle says; rejects are found where they stand in the source."""
        assert sorted([*loaded, *filtered, *rejected, *blank]) == list(range(1, len(lines) + 1)), "the oracle itself"
        found = self.rejects()
        assert set(found) == rejected
        for no, (offset, raw) in found.items():
            assert offset == sum(map(len, lines[: no - 1]))
            assert raw == lines[no - 1].removesuffix(b"\n")
        assert self.counts() == (len(lines), len(loaded), len(filtered), len(rejected), len(blank))
        assert api.verify_run(self.bench.url, self.bench.run_id).findings == ()


@dataclass(frozen=True)
class Judge:
    """A bench with one worker, and PostgreSQL's word on single lines."""

    bench: Bench
    worker: WorkerProcess

    def load(self, content: bytes, pipeline: str) -> Account:
        self.bench.conn.execute("UPDATE protheon.load SET retired_at = now() WHERE retired_at IS NULL")  # the same bytes may be drawn twice
        self.bench.submit(content, pipeline=pipeline, reject_limit_lines=1 << 30)
        assert set(self.bench.load_all(self.worker)) <= {"succeeded"}
        return Account(self.bench)


@pytest.fixture
def judge(bench: Bench) -> Judge:  # noqa: F811  # the fixture
    bench.conn.execute(JUDGE)
    return Judge(bench, bench.worker())


@examples(8)
@given(content=FILE)
def test_jsonl_loads_exactly_the_lines_that_postgresql_takes_as_jsonb(judge: Judge, content: bytes) -> None:
    account, ask = judge.load(content, "jsonl"), judge.bench.ask
    lines = lines_of(content)
    lines_given = as_given(lines)
    judgements = ask("SELECT public.judge(line)::text FROM unnest(%s::bytea[]) WITH ORDINALITY AS t(line, no) ORDER BY no", lines_given)
    documents = {no: doc for no, (doc,) in enumerate(judgements, start=1) if doc is not None}
    blank = {no for no, line in enumerate(lines_given, start=1) if not line.strip(b" \t\r")}
    tables = ask(
        "SELECT DISTINCT table_name FROM protheon.table_count JOIN protheon.attempt USING (task_id, attempt_no) WHERE run_id = %s",
        judge.bench.run_id,
    )
    rows = [row for (table,) in tables for row in ask(f"SELECT line_no, doc::text FROM {table} WHERE load_id = %s", judge.bench.load_id)]
    assert len(rows) == len(dict(rows))
    assert dict(rows) == documents
    rejected = set(range(1, len(lines) + 1)) - set(documents) - blank
    account.agrees_with(lines, set(documents), set(), rejected, blank)


ORDERS = '''
from collections.abc import Iterator
import msgspec
import protheon_dask as protheon

class Ordered(protheon.Row, table="public.orders_{name}"):
    id: int
    name: str | None
    n: int | None

class Part(protheon.Row, table="public.parts_{name}"):
    order_id: int
    part: int

class Order(msgspec.Struct):
    id: int
    name: str | None = None
    n: int | None = None
    parts: list[int | None] = []
    verdict: str = ""

@protheon.pipeline(version="1")
def orders(order: Order) -> Iterator[Ordered | Part]:
    """No key and no rule: a row that is loaded twice shows."""
    if order.verdict == "filtered":
        yield protheon.FILTERED
    elif order.verdict == "refused":
        raise protheon.Reject("refused")
    elif order.verdict == "broken":
        raise ZeroDivisionError("a defect of the pipeline")
    elif order.verdict != "vanished":
        yield Ordered(order.id, order.name, order.n)
        for part in order.parts:
            yield Part(order.id, part)
'''
NUMBER = st.integers(-(2**63), 2**63 - 1)
FATES = st.one_of(
    st.fixed_dictionaries(
        {"id": NUMBER},
        optional={
            "name": st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6),
            "n": st.none() | NUMBER,
            "parts": st.lists(NUMBER, max_size=3),
        },
    ).map(lambda order: ("loaded", order)),
    st.fixed_dictionaries({"id": NUMBER, "verdict": st.sampled_from(["filtered"])}).map(lambda order: ("filtered", order)),
    st.fixed_dictionaries({"id": NUMBER, "verdict": st.sampled_from(["refused", "broken", "vanished"])}).map(
        lambda order: ("rejected", order)
    ),
    st.sampled_from(
        [
            {"id": 2**63}, {"id": 1, "n": 2**63}, {"id": 1, "name": "a\0b"}, {"id": 1, "parts": [1, None]}, {"id": 1, "parts": [2**63]},
            {"id": 1, "parts": [1, -(2**63) - 1, 2]}, {"name": "no id"}, {"id": None}, {"id": 1.5}, {"id": "one"},
            {"id": 1, "parts": 3}, [], 7,
        ]
    ).map(lambda order: ("rejected", order)),
)  # fmt: skip
LINES = st.lists(
    st.one_of(
        FATES.map(lambda drawn: (drawn[0], json.dumps(drawn[1]).encode(), drawn[1])),
        st.sampled_from([b"", b" \t ", b"\r"]).map(lambda line: ("blank", line, None)),
        st.sampled_from([b"{", b"\xff", b"\0", b'{"id":1}x', b'{"id":1,"name":"\xed\xa0\x80"}']).map(lambda line: ("rejected", line, None)),
    ),
    max_size=60,
)


@examples(8)
@given(drawn=LINES, end=st.sampled_from([b"\n", b"\r\n"]))
def test_a_typed_pipeline_over_two_tables_loads_each_line_into_both_or_none(
    judge: Judge, tmp_path: Path, drawn: list[tuple[str, bytes, Any]], end: bytes
) -> None:
    name = uuid4().hex[:8]
    file = tmp_path / f"orders_{name}.py"
    file.write_text(ORDERS.format(name=name))
    content = b"".join(line + end for _, line, _ in drawn)
    account = judge.load(content, f"{file}:orders")
    fates = {
        fate: {no for no, (found, _, _) in enumerate(drawn, start=1) if found == fate}
        for fate in ("loaded", "filtered", "rejected", "blank")
    }
    account.agrees_with(lines_of(content), **fates)
    orders = [order for fate, _, order in drawn if fate == "loaded"]
    rows = judge.bench.ask(f"SELECT id, name, n FROM public.orders_{name}")
    assert Counter(rows) == Counter((order["id"], order.get("name"), order.get("n")) for order in orders)
    rows = judge.bench.ask(f"SELECT order_id, part FROM public.parts_{name}")
    assert Counter(rows) == Counter((order["id"], part) for order in orders for part in order.get("parts", ()))
