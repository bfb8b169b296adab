"""Rows are counted where things happen to them: the identity of a table's rows can fail, and what breaks it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protheon_dask.errors import InvariantError, TargetAltered, TargetRefused
from protheon_dask.model import StageClock
from protheon_dask.pipelines.table import Column, ForeignKey, OnConflict, Table
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.finish import finish_tables
from protheon_dask.sink.loader import ChunkLoader
from tests.integration.sink.conftest import batch_of, load_chunk, one_row_a_line

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

ID, N = Column("id", "bigint", not_null=True), Column("n", "integer")
SHARED = Table(name="public.met", columns=(ID, N), primary_key=("id",), on_conflict="update", shared=True)
PLAIN = Table(name="public.plain", columns=(ID, N), primary_key=("id",))


def loader_of(conn: Conn, *tables: Table) -> ChunkLoader:
    return ChunkLoader(conn, describe(conn, tables), task_id=7, check_fence=lambda: None, clock=StageClock(), now=lambda: 0.0)


@pytest.mark.parametrize(
    ("meddling", "counted"),
    [
        ("DELETE FROM pg_temp.protheon_stage_0 WHERE id = 3", "of 5 rows 4 were inserted, 0 updated and 0 ignored"),
        (
            "INSERT INTO pg_temp.protheon_stage_0 SELECT * FROM pg_temp.protheon_stage_0 WHERE id = 3",
            "of 5 rows 5 were inserted, 0 updated and 1 ignored",
        ),
    ],
    ids=["lost", "doubled"],
)
def test_a_staged_row_that_is_lost_or_doubled_on_the_way_is_caught(conn: Conn, make: Make, meddling: str, counted: str) -> None:
    make(SHARED)
    conn.execute("BEGIN")
    loader = loader_of(conn, SHARED)
    loader.load(one_row_a_line([(n, n) for n in range(5)]))
    loader.settle()
    conn.execute(meddling.encode())
    with pytest.raises(InvariantError, match=counted):
        loader.finish()


def test_rows_that_copy_does_not_store_without_a_trigger_to_blame_are_caught(conn: Conn, make: Make) -> None:
    """The trigger that dropped them hides itself, as a table that lies would."""
    make(PLAIN)
    conn.execute("""
        CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE pg_trigger SET tgenabled = 'D' WHERE tgname = 'hiding';
            RETURN NULL;
        END $$;
        CREATE TRIGGER hiding BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION hide();
    """)
    with pytest.raises(InvariantError, match="of the rows of a COPY 1 are missing"), conn.transaction():
        loader_of(conn, PLAIN).load(one_row_a_line([(1, 1)]))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("on_conflict", ["ignore", "update", "newer", "add"])
def test_any_rows_in_any_batches_add_up_and_leave_what_the_rule_says(conn: Conn, make: Make, on_conflict: str, shared: bool) -> None:
    rule: OnConflict = "update" if on_conflict == "newer" else on_conflict  # type: ignore[assignment]
    table = replace(SHARED, on_conflict=rule, shared=shared, newer_by="n" if on_conflict == "newer" else None)
    make(table)
    small = st.integers(0, 5)
    chunks = st.lists(st.lists(st.lists(st.tuples(small, small), max_size=6), max_size=3), min_size=1, max_size=3)

    @given(chunks)
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    def adds_up(chunks: list[list[list[tuple[int, int]]]]) -> None:
        conn.execute("TRUNCATE met")
        expected: dict[int, int] = {}
        for chunk in chunks:
            before = set(expected)
            given_rows = [row for batch in chunk for row in batch]
            loaded = load_chunk(conn, [table], [one_row_a_line(batch) for batch in chunk])
            for key, n in given_rows:
                old = expected.get(key)
                match on_conflict:
                    case "add":
                        expected[key] = n + (old or 0)
                    case "ignore":
                        expected.setdefault(key, n)
                    case "newer" if old is not None and n <= old:
                        pass
                    case _:
                        expected[key] = n
            count = loaded.counts["public.met"]
            assert loaded.faults == []
            assert (count.offered, count.inserted + count.updated + count.ignored) == (len(given_rows), len(given_rows))
            if shared or len(chunk) == 1:
                assert count.inserted == len(set(expected) - before)
        assert dict(conn.execute("SELECT id, n FROM met").fetchall()) == expected

    adds_up()


ALTERED = "was altered or made anew while a chunk was loaded"


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("ddl", "values"),
    [
        ("ALTER TABLE met ALTER n TYPE real", (2**30, 5)),  # of the same width: its bytes would be taken for a number without a word
        ("ALTER TABLE met ALTER n TYPE bigint", (1, 2)),  # of another width: each line would be refused
        ("ALTER TABLE met ALTER n TYPE text", (1, 2)),
        ("DROP TABLE met; CREATE TABLE met (id bigint PRIMARY KEY, n integer)", (1, 2)),
    ],
)
def test_a_table_that_is_altered_after_it_was_described_takes_nothing_of_the_chunk(
    conn: Conn, make: Make, ddl: str, values: tuple[int, int], shared: bool
) -> None:
    table = replace(SHARED, shared=shared)
    make(table)
    loader = loader_of(conn, table)
    conn.execute(ddl.encode())

    def load() -> None:
        with conn.transaction():
            loader.load(one_row_a_line(list(enumerate(values))))
            loader.finish()

    with pytest.raises(TargetAltered, match=f"table public.met {ALTERED}"):
        load()
    assert conn.execute("SELECT count(*) FROM met").fetchone() == (0,)


def test_a_foreign_key_that_another_run_makes_at_its_end_refuses_no_line_of_a_chunk_that_was_not_told(conn: Conn, make: Make) -> None:
    """Its rows refer to those of a shared table, which are merged last; the same holds when the key goes away again."""
    refers = Table(name="public.refers", columns=(ID, N), primary_key=("id",), foreign_keys=(ForeignKey(("n",), "public.met", ("id",)),))
    met = Table(name="public.met", columns=(ID, N), primary_key=("id",), on_conflict="ignore", shared=True)
    make(refers, met)
    batch = batch_of([[[(n, n)], [(n, n)]] for n in range(5)], 2)

    def load_as_described_before() -> None:
        with conn.transaction():
            loader.load(batch)
            loader.finish()

    loader = loader_of(conn, refers, met)
    assert finish_tables(conn, [refers, met]) == []
    with pytest.raises(TargetAltered, match=f"table public.refers {ALTERED}"):
        load_as_described_before()
    loader = loader_of(conn, refers, met)
    conn.execute("ALTER TABLE refers ADD CONSTRAINT other UNIQUE (n) DEFERRABLE")
    with pytest.raises(TargetAltered, match=f"table public.refers {ALTERED}"):
        load_as_described_before()
    loader = loader_of(conn, refers, met)
    conn.execute("ALTER TABLE refers DROP CONSTRAINT other")  # which the end of a batch names
    with pytest.raises(TargetAltered, match=f"table public.refers {ALTERED}"):
        load_as_described_before()
    assert load_chunk(conn, [refers, met], [batch]).faults == []


def test_a_column_that_is_no_longer_the_pipelines_is_not_described(conn: Conn, make: Make) -> None:
    make(PLAIN)
    conn.execute("ALTER TABLE plain ALTER n TYPE text")
    with pytest.raises(TargetRefused, match="column 'n' is text, the pipeline's is integer: alter it back"):
        describe(conn, [PLAIN])
    conn.execute("CREATE DOMAIN small AS integer; ALTER TABLE plain ALTER n TYPE small USING n::integer")
    describe(conn, [PLAIN])
    serial = Table(name="public.counted", columns=(Column("id", "bigserial"), Column("price", "numeric(10,2)"), Column("size", "text[]")))
    make(serial)
    describe(conn, [serial])


def test_sums_that_leave_their_type_are_the_rejects_of_the_lines_that_bring_them_there(conn: Conn, make: Make) -> None:
    table = Table(name="public.summed", columns=(ID, N, Column("s", "smallint")), primary_key=("id",), on_conflict="add")
    make(table)
    top = 2**31 - 1
    rows: list[tuple[Any, ...]] = [
        (1, top, 1),
        (1, 1, 1),
        (2, 5, 32_767),
        (2, None, None),
        (2, 5, 1),
        (1, -1, None),
        (1, 1, 1),
        (3, None, None),
    ]
    chunk = load_chunk(conn, [table], [one_row_a_line(rows)], merge_each_batch=True)
    assert chunk.refused == [(1, "22003"), (4, "22003")]
    assert "out of range" in chunk.faults[0].reason
    assert conn.execute("SELECT * FROM summed ORDER BY id").fetchall() == [(1, top, 2), (2, 5, 32_767), (3, None, None)]
    assert load_chunk(conn, [table], [one_row_a_line([(3, 4, None), (1, 1, 0)])], merge_each_batch=True).refused == [(1, "22003")]
    assert conn.execute("SELECT * FROM summed ORDER BY id").fetchall() == [(1, top, 2), (2, 5, 32_767), (3, 4, None)]
