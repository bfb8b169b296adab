"""What bad lines cost a chunk: little if they are few, and an end in bounded time if they are all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run.conftest import Bench

PIPELINES = """
from typing import Annotated
import msgspec, pandas
import protheon_dask as protheon

class Seen(msgspec.Struct):
    id: int
    account: int
    note: str | None
    text: str

def fields(name, **rule):
    Column = protheon.Column
    columns = (
        Column("id", "bigint", not_null=True), Column("account", "integer", not_null=True), Column("note", "jsonb"), Column("text", "text"),
    )
    return protheon.Table(name="public." + name, columns=columns, primary_key=("id",), **rule)

@protheon.pipeline(tables=[fields("direct")])
def direct(line: Seen):
    return line.id, line.account, line.note, line.text

@protheon.pipeline(tables=[fields("ignoring", on_conflict="ignore")])
def ignoring(line: Seen):
    return line.id, line.account, line.note, line.text

@protheon.pipeline(tables=[fields("updating", on_conflict="update")])
def updating(line: Seen):
    return line.id, line.account, line.note, line.text

@protheon.pipeline(tables=[fields("shared", on_conflict="update", shared=True)])
def shared(line: Seen):
    return line.id, line.account, line.note, line.text

@protheon.pipeline(tables=[fields("by_lines")])
def by_lines(lines: list[bytes]):
    seen = [msgspec.json.decode(line, type=Seen) for line in lines]
    return [(place, (one.id, one.account, one.note, one.text)) for place, one in enumerate(seen)]

@protheon.pipeline(tables=[fields("by_pandas")])
def by_pandas(frame: pandas.DataFrame):
    return frame.assign(text=frame["text"].str.strip(), id=frame["id"] + 0)
"""

BAD = {
    "decode": (b'{"id":%d,"account":1,"note":null,', None),
    "range": (b'{"id":%d,"account":3000000000,"note":null,"text":"x"}', "22003"),
    "copy": (b'{"id":%d,"account":1,"note":"[1,","text":"x"}', "22P02"),
    "check": (b'{"id":%d,"account":-1,"note":null,"text":"x"}', "23514"),
    "trigger": (b'{"id":%d,"account":1,"note":null,"text":"refuse me"}', "P0001"),
    "foreign key": (b'{"id":%d,"account":999,"note":null,"text":"x"}', "23503"),
}
"""By kind: a line that is refused, and the SQLSTATE with which."""

TABLES = ("direct", "ignoring", "updating", "shared")
BATCHED = ("by_lines", "by_pandas")

RULES = """
CREATE TABLE public.account (id integer PRIMARY KEY);
INSERT INTO public.account SELECT generate_series(-1, 100);
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.text = 'refuse me' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN NEW;
END $$;
"""
RULES_OF_TABLE = """
ALTER TABLE public.{0} ADD CHECK (account >= 0);
ALTER TABLE public.{0} ADD FOREIGN KEY (account) REFERENCES public.account;
CREATE TRIGGER refuse BEFORE INSERT ON public.{0} FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""


def good(id_: int) -> bytes:
    return b'{"id":%d,"account":%d,"note":"{\\"of\\": %d}","text":"%s"}' % (id_, id_ % 100, id_, b"line " * 20)


@dataclass
class Measured:
    """Loads chunks of n_lines lines into tables with rules, each kind of chunk in a run of its own, and says how long the attempt took."""

    bench: Bench
    path: Path
    n_lines: int

    def __post_init__(self) -> None:
        self.worker = self.bench.worker()
        self._next_id = 1
        self._has_rules: set[str] = set()

    def submit(self, table: str, bad: Callable[[int], bytes | None], **limit: Any) -> None:
        """bad: gives the bad line of an index, or None for a good one."""
        ids = range(self._next_id, self._next_id + self.n_lines)
        self._next_id += self.n_lines
        lines = [line % id_ if (line := bad(index)) is not None else good(id_) for index, id_ in enumerate(ids)]
        wide = {"chunk_lines": 50_000, "max_chunk_bytes": 512 << 20}
        self.bench.submit(b"\n".join(lines), pipeline=f"{self.path}:{table}", **wide, **limit)
        if table not in self._has_rules:
            self._has_rules.add(table)
            self.bench.conn.execute((RULES_OF_TABLE if len(self._has_rules) > 1 else RULES + RULES_OF_TABLE).format(table).encode())

    def run_s(self) -> float:
        """Run the one chunk and return the seconds of its transform, COPY and merge, which bad lines can lengthen."""
        [task_id] = self.bench.task_ids
        assert self.worker.run(self.bench.dispatch()) == "succeeded"
        [(seconds,)] = self.bench.ask("SELECT transform_s + copy_s + merge_s FROM protheon.attempt WHERE task_id = %s", task_id)
        return float(seconds)

    def refused(self) -> list[tuple[int, str | None]]:
        sql = "SELECT line, sqlstate FROM protheon.reject WHERE load_id = %s ORDER BY line"
        return [(line, sqlstate) for line, sqlstate in self.bench.ask(sql, self.bench.load_id)]

    def good_s(self, table: str) -> float:
        """The quickest of two chunks without a bad line."""
        seconds = []
        for _ in range(2):
            self.submit(table, lambda _: None)
            seconds.append(self.run_s())
        return min(seconds)


def measured(bench: Bench, tmp_path: Path, n_lines: int) -> Measured:
    path = tmp_path / "costs.py"
    path.write_text(PIPELINES)
    return Measured(bench, path, n_lines)


def assert_one_costs_less_than_twice(chunks: Measured, table: str, kinds: Any = BAD) -> dict[str, float]:
    """Measure each kind, once more if something else had the processor."""
    ratios = {}
    place = chunks.n_lines * 2 // 3 + 1
    base_s = chunks.good_s(table)
    for kind in kinds:
        line, sqlstate = BAD[kind]
        for _ in range(3):
            chunks.submit(table, lambda index, line=line: line if index == place else None)
            ratios[kind] = chunks.run_s() / base_s
            expected = None if table == "by_lines" and kind == "decode" else sqlstate
            assert chunks.refused() == [(place + 1, expected)]
            if ratios[kind] < 2:
                break
            base_s = max(base_s, chunks.good_s(table))
        assert ratios[kind] < 2, (table, kind, ratios)
    print(table, chunks.n_lines, {kind: round(ratio, 2) for kind, ratio in ratios.items()}, f"{base_s:.2f} s")  # for who measures
    return ratios


@pytest.mark.slow
@pytest.mark.parametrize(("table", "kinds"), [("direct", ("copy", "foreign key")), ("updating", ("copy",)), ("by_pandas", ("decode",))])
def test_one_bad_line_in_twenty_thousand_costs_less_than_twice_the_time(
    bench: Bench, tmp_path: Path, table: str, kinds: tuple[str, ...]
) -> None:
    assert_one_costs_less_than_twice(measured(bench, tmp_path, 20_000), table, kinds)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("table", [*TABLES, *BATCHED])
def test_one_bad_line_in_fifty_thousand_costs_less_than_twice_the_time(bench: Bench, tmp_path: Path, table: str) -> None:
    assert_one_costs_less_than_twice(measured(bench, tmp_path, 50_000), table)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("n_bad", [10, 100, 1000])
def test_scattered_bad_lines_are_all_found(bench: Bench, tmp_path: Path, kind: str, n_bad: int) -> None:
    chunks = measured(bench, tmp_path, 50_000)
    base_s = chunks.good_s("direct")
    line, sqlstate = BAD[kind]
    step = chunks.n_lines // n_bad
    chunks.submit("direct", lambda index: line if index % step == step // 2 else None)
    seconds = chunks.run_s()
    assert chunks.refused() == [(at * step + step // 2 + 1, sqlstate) for at in range(n_bad)]
    print(kind, n_bad, f"{seconds / base_s:.2f} times {base_s:.2f} s")


def assert_ends_by_the_limit(chunks: Measured, table: str, kind: str, within_s: float, words: str, **limit: Any) -> None:
    line, _ = BAD[kind]
    chunks.submit(table, lambda _: line, **limit)
    started_s = time.monotonic()
    assert chunks.worker.run(chunks.bench.dispatch()) == "released"
    took_s = time.monotonic() - started_s
    state, reason = chunks.bench.run_state()
    print(table, kind, f"{took_s:.1f} s", reason)  # for who measures
    assert state == "paused"
    assert (reason or "").startswith(f"reject limit of {words}: at least ")
    assert f"of {chunks.n_lines:,} lines are rejected, as line 1: " in (reason or "")
    assert chunks.bench.endings() == [(1, "released", "nothing")]
    assert chunks.bench.ask(f"SELECT count(*) FROM public.{table}") == [(0,)]
    assert took_s < within_s


@pytest.mark.parametrize("kind", ["decode", "range", "trigger"])
def test_a_chunk_beyond_its_limit_pauses_its_run_as_soon_as_that_is_certain(bench: Bench, tmp_path: Path, kind: str) -> None:
    assert_ends_by_the_limit(measured(bench, tmp_path, 10_000), "direct", kind, 60, "1000 lines", reject_limit_lines=1_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("table", [*TABLES, *BATCHED])
def test_fifty_thousand_bad_lines_pause_their_run_within_minutes(bench: Bench, tmp_path: Path, table: str, kind: str) -> None:
    assert_ends_by_the_limit(measured(bench, tmp_path, 50_000), table, kind, 300, "50%", reject_limit_fraction=0.5)
