"""What the loader does with each rule, and whose rows stay."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from protheon_dask.errors import LeaseLost, SchemaViolation
from protheon_dask.model import StageClock
from protheon_dask.pipelines.table import PROVENANCE, BatchRows, Column, Table, TableRows, Verdict
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.loader import ChunkLoader
from tests.integration.sink.conftest import Line, batch_of, load_chunk, one_row_a_line

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

ID, NOTE, AT = Column("id", "bigint", not_null=True), Column("note", "text"), Column("at", "integer")
PLAIN = Table(name="shop.plain", columns=(ID, NOTE), primary_key=("id",))
IGNORE = Table(name="shop.ignoring", columns=(ID, NOTE), primary_key=("id",), on_conflict="ignore")
UPDATE = Table(name="shop.updating", columns=(ID, NOTE), primary_key=("id",), on_conflict="update")
NEWER = Table(name="shop.newer", columns=(ID, NOTE, AT), primary_key=("id",), on_conflict="update", newer_by="at")
ADD = Table(name="shop.adding", columns=(ID, Column("n", "integer"), Column("s", "numeric")), primary_key=("id",), on_conflict="add")
BARE = Table(name="shop.bare", columns=(ID, NOTE))


def shared(table: Table) -> Table:
    return replace(table, shared=True)


def stored(conn: Conn, table: Table) -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT * FROM {table.name} ORDER BY 1").fetchall()


def test_rows_of_a_table_without_a_key_are_all_stored(conn: Conn, make: Make) -> None:
    make(BARE)
    chunk = load_chunk(conn, [BARE], [one_row_a_line([(1, "a"), (1, "a")]), one_row_a_line([(1, "a")])])
    assert stored(conn, BARE) == [(1, "a")] * 3
    assert chunk.count_of(BARE) == (3, 0, 0)
    assert chunk.n_fence_checks == 0


def test_of_two_lines_with_one_key_the_later_one_is_refused_under_the_rule_error(conn: Conn, make: Make) -> None:
    make(PLAIN)
    first = load_chunk(conn, [PLAIN], [one_row_a_line([(1, "a"), (2, "b"), (1, "c")]), one_row_a_line([(3, "d"), (2, "e")])])
    assert first.refused == [(2, "23505"), (1, "23505")]
    assert "(id)=(1)" in first.faults[0].reason
    assert first.faults[0].table == "shop.plain"
    second = load_chunk(conn, [PLAIN], [one_row_a_line([(3, "f"), (4, "g")])])
    assert second.refused == [(0, "23505")]
    assert stored(conn, PLAIN) == [(1, "a"), (2, "b"), (3, "d"), (4, "g")]
    assert first.count_of(PLAIN) == (3, 0, 0)


@pytest.mark.parametrize("table", [IGNORE, shared(IGNORE)], ids=["own", "shared"])
def test_the_first_row_stays_under_the_rule_ignore(conn: Conn, make: Make, table: Table) -> None:
    make(table)
    first = load_chunk(conn, [table], [one_row_a_line([(1, "a"), (2, "b"), (1, "c")]), one_row_a_line([(2, "d"), (3, "e")])])
    second = load_chunk(conn, [table], [one_row_a_line([(1, "x"), (4, "y"), (4, "z")])])
    assert stored(conn, table) == [(1, "a"), (2, "b"), (3, "e"), (4, "y")]
    assert (first.count_of(table), second.count_of(table)) == ((3, 0, 2), (1, 0, 2))
    assert not first.faults + second.faults


@pytest.mark.parametrize("table", [UPDATE, shared(UPDATE)], ids=["own", "shared"])
def test_the_last_row_stays_under_the_rule_update(conn: Conn, make: Make, table: Table) -> None:
    make(table)
    first = load_chunk(conn, [table], [one_row_a_line([(1, "a"), (2, "b"), (1, "c")])])
    second = load_chunk(conn, [table], [one_row_a_line([(1, "x"), (4, "y"), (4, "z")])])
    assert stored(conn, table) == [(1, "x"), (2, "b"), (4, "z")]
    assert (first.count_of(table), second.count_of(table)) == ((2, 0, 1), (1, 1, 1))


@pytest.mark.parametrize("table", [NEWER, shared(NEWER)], ids=["own", "shared"])
def test_only_a_strictly_newer_row_replaces_the_stored_one(conn: Conn, make: Make, table: Table) -> None:
    make(table)
    rows = [(1, "first", 5), (1, "tie", 5), (1, "older", 4), (2, "old", 1), (3, "unknown", None)]
    load_chunk(conn, [table], [one_row_a_line(rows), one_row_a_line([(2, "new", 2)])])
    assert stored(conn, table) == [(1, "first", 5), (2, "new", 2), (3, "unknown", None)]
    rows = [(1, "tie", 5), (2, "newer", 3), (3, "known", 1), (1, "unknown", None), (4, "x", None)]
    again = load_chunk(conn, [table], [one_row_a_line(rows)])
    assert stored(conn, table) == [(1, "first", 5), (2, "newer", 3), (3, "known", 1), (4, "x", None)]
    assert again.count_of(table) == (1, 2, 2)


@pytest.mark.parametrize("table", [ADD, shared(ADD)], ids=["own", "shared"])
def test_rows_are_added_up_under_the_rule_add(conn: Conn, make: Make, table: Table) -> None:
    make(table)
    first = load_chunk(conn, [table], [one_row_a_line([(1, 2, 0.5), (1, 3, None), (2, 1, 1)]), one_row_a_line([(2, None, 4)])])
    second = load_chunk(conn, [table], [one_row_a_line([(1, 10, 1), (3, None, None)])])
    assert [tuple(map(str, row)) for row in stored(conn, table)] == [("1", "15", "1.5"), ("2", "1", "5"), ("3", "None", "None")]
    assert second.count_of(table) == (1, 1, 0)
    assert sum(first.count_of(table)) == 4


def test_a_table_goes_back_to_direct_copy_after_a_batch_without_conflicts(conn: Conn, make: Make) -> None:
    make(IGNORE)
    load_chunk(conn, [IGNORE], [one_row_a_line([(1, "a")])])
    batches = [[(1, "b"), (2, "c")], [(3, "d")], [(4, "e")], [(4, "f"), (1, "g")]]
    chunk = load_chunk(conn, [IGNORE], [one_row_a_line(rows) for rows in batches])
    assert chunk.count_of(IGNORE) == (3, 0, 3)
    assert chunk.n_fence_checks == 2  # the first batch and the last one met stored keys
    assert stored(conn, IGNORE) == [(1, "a"), (2, "c"), (3, "d"), (4, "e")]


PARENT = Table(name="shop.parent", columns=(ID,), primary_key=("id",))
CHILD = Table(name="shop.child", columns=(ID, Column("n", "smallint", not_null=True)), primary_key=("id", "n"))
SEEN = Table(name="shop.seen", columns=(ID, Column("n", "smallint", not_null=True)), primary_key=("id",), on_conflict="update", shared=True)


def test_a_line_is_in_all_its_tables_or_in_none(conn: Conn, make: Make) -> None:
    make(PARENT, CHILD, SEEN)
    conn.execute("ALTER TABLE shop.child ADD CHECK (n < 100)")
    conn.execute("ALTER TABLE shop.seen ADD CHECK (n <> 18)")
    lines: list[Line] = [[[(i,)], [(i, k) for k in range(3)], [(i % 5, i)]] for i in range(40)]
    lines[7] = [[(7,)], [(7, 1), (7, 200)], [(2, 7)]]  # the child's check
    lines[21] = [[(21,)], [(21, 1)], [(77, None)]]  # the shared table's NOT NULL
    lines[30] = [[(30,)], [(30, 1), (30, 1)], []]  # the child's key, within one line
    lines[31] = [[(5,)], [], []]  # the parent's key
    chunk = load_chunk(conn, [PARENT, CHILD, SEEN], [batch_of(lines[:20], 3), batch_of(lines[20:], 3)])
    assert chunk.refused == [(7, "23514"), (18, "23514"), (1, "23502"), (10, "23505"), (11, "23505")]
    assert [fault.table for fault in chunk.faults] == ["shop.child", "shop.seen", "shop.seen", "shop.child", "shop.parent"]
    assert "protheon_stage" not in " ".join(fault.reason for fault in chunk.faults)
    good = [i for i in range(40) if i not in (7, 18, 21, 30, 31)]
    assert [row[0] for row in stored(conn, PARENT)] == good
    assert stored(conn, CHILD) == [(i, k) for i in good for k in range(3)]
    assert stored(conn, SEEN) == [(r, max(i for i in good if i % 5 == r)) for r in range(5)]
    assert chunk.count_of(PARENT) == (35, 0, 0)
    assert chunk.count_of(SEEN) == (5, 0, 30)


@pytest.mark.parametrize("bad", [[], [0], [1999], [700], [3, 1500], list(range(2000))], ids=["none", "first", "last", "one", "two", "all"])
def test_bad_lines_of_a_large_batch_are_found_by_the_server_and_the_rest_is_loaded(conn: Conn, make: Make, bad: list[int]) -> None:
    table = Table(name="public.checked", columns=(ID, Column("n", "integer")), primary_key=("id",))
    make(table)
    conn.execute("ALTER TABLE checked ADD CHECK (n >= 0)")
    chunk = load_chunk(conn, [table], [one_row_a_line([(i, -1 if i in set(bad) else i) for i in range(2000)])])
    assert [fault.index for fault in chunk.faults] == bad
    assert {fault.sqlstate for fault in chunk.faults} <= {"23514"}
    n_good = 2000 - len(bad)
    assert conn.execute("SELECT count(*), count(DISTINCT xmin::text) FROM checked").fetchone() == (n_good, min(n_good, 1))
    assert chunk.count_of(table) == (2000 - len(bad), 0, 0)


def test_faults_of_every_kind_are_told_from_one_another(conn: Conn, make: Make) -> None:
    short, n, price, doc = (
        Column("short", "varchar(3)"),
        Column("n", "smallint", not_null=True),
        Column("price", "numeric(4,2)"),
        Column("doc", "jsonb"),
    )
    columns = (ID, short, n, price, doc)
    table = Table(name="public.strict", columns=columns, primary_key=("id",))
    make(PARENT, table)
    conn.execute("ALTER TABLE strict ADD FOREIGN KEY (id) REFERENCES shop.parent DEFERRABLE INITIALLY DEFERRED")
    conn.execute("INSERT INTO shop.parent SELECT generate_series(0, 20)")
    conn.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.short = 'no' THEN RAISE EXCEPTION 'not this one'; END IF;
            IF NEW.short = 'out' THEN RETURN NULL; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON strict FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    rows: list[tuple[Any, ...]] = [
        (0, "abc", 1, "1.50", {"a": [1]}),
        (1, "abcd", 1, 1, None),  # too long: the server
        (2, "a\0b", 1, 1, None),  # NUL
        (3, "a", 40_000, 1, None),  # no smallint
        (4, "a", None, 1, None),  # null
        (5, "a", 1, 100, None),  # numeric(4,2)
        (6, "a", 1, 1, b'{"a": }'),  # no JSON
        (7, "a", 1, 1, '{"a": "\\u0000"}'),  # JSON that jsonb cannot keep
        (99, "a", 1, 1, None),  # a foreign key, deferred
        (9, "no", 1, 1, None),  # a trigger
        (10, "out", 1, 1, None),  # a trigger drops it: loaded, ignored
        (2**63, "a", 1, 1, None),  # no bigint
        ("12", "a", 1, 1, None),  # a text for a bigint
        (13, "\ud800", 1, 1, None),  # no UTF-8
        (14, "a", 1, 1),  # a value too few
        (15, b"\xff", 1, 1, None),  # bytes for a text
        (16, "ok", 1, float("inf"), None),  # the type takes it, numeric(4,2) does not
        (17, "ok", 1, None, b"\xff"),  # no UTF-8 in JSON
        (0, "dup", 1, 1, None),
    ]
    chunk = load_chunk(conn, [table], [one_row_a_line(rows)])
    assert chunk.refused == [
        (1, "22001"), (2, "22021"), (3, "22003"), (4, "23502"), (5, "22003"), (6, "22P02"), (7, "22P05"), (8, "23503"), (9, "P0001"),
        (11, "22003"), (12, "22P02"), (13, "22021"), (14, "22023"), (15, "22P02"), (16, "22003"), (17, "22021"), (18, "23505"),
    ]  # fmt: skip
    assert chunk.count_of(table) == (1, 0, 1)
    assert conn.execute("SELECT id, short, price::text, doc FROM strict").fetchall() == [(0, "abc", "1.50", {"a": [1]})]


def test_the_fence_is_checked_after_a_fault_and_a_lost_lease_ends_the_load(conn: Conn, make: Make) -> None:
    make(PLAIN)

    def check_fence() -> None:
        raise LeaseLost(7, 1)

    batches = [one_row_a_line([(1, "a")]), one_row_a_line([(1, "b")])]
    with pytest.raises(LeaseLost):
        load_chunk(conn, [PLAIN], batches, check_fence=check_fence)
    assert stored(conn, PLAIN) == []


def test_what_is_no_lines_fault_passes_as_it_came(conn: Conn, make: Make) -> None:
    make(PLAIN)
    targets = describe(conn, [PLAIN])
    conn.execute("DROP TABLE shop.plain")
    loader = ChunkLoader(conn, targets, task_id=7, check_fence=lambda: None, clock=StageClock(), now=lambda: 0.0)
    conn.execute("BEGIN")
    with pytest.raises(psycopg.errors.UndefinedTable):
        loader.load(one_row_a_line([(1, "a")]))


def test_provenance_is_kept_in_direct_and_in_staged_rows(conn: Conn, make: Make) -> None:
    own = Table(name="a.own", columns=(ID, NOTE), primary_key=("id",), on_conflict="update", provenance=True)
    met = Table(name="a.met", columns=(ID, Column("n", "integer")), primary_key=("id",), on_conflict="add", shared=True, provenance=True)
    make(own, met)
    lines: list[Line] = [[[(1, "a")], [(1, 1)]], [[(2, "b")], [(2, 1)]]]
    load_chunk(conn, [own, met], [batch_of(lines, 2)], task_id=5)
    load_chunk(conn, [own, met], [batch_of([[[(2, "c")], [(2, 1)]]], 2)], task_id=6)
    assert stored(conn, own) == [(1, "a", 5), (2, "c", 6)]
    assert stored(conn, met) == [(1, 1, 5), (2, 2, 6)]
    assert PROVENANCE == "_protheon_chunk"


def test_what_only_the_merge_refuses_fails_the_chunk_and_is_found_when_merged_by_batch(conn: Conn, make: Make) -> None:
    make(PARENT, SEEN)
    conn.execute("ALTER TABLE shop.seen ADD FOREIGN KEY (id) REFERENCES shop.parent")
    conn.execute("INSERT INTO shop.parent VALUES (1), (2)")
    batches = [one_row_a_line([(1, 1), (9, 2), (2, 3)]), one_row_a_line([(2, 4)])]
    with pytest.raises(SchemaViolation) as refused:
        load_chunk(conn, [SEEN], batches)
    assert (refused.value.sqlstate, refused.value.table) == ("23503", "shop.seen")
    chunk = load_chunk(conn, [SEEN], batches, merge_each_batch=True)
    assert chunk.refused == [(1, "23503")]
    assert stored(conn, SEEN) == [(1, 1), (2, 4)]
    assert chunk.count_of(SEEN) == (2, 1, 0)


def test_deferrable_constraints_may_be_broken_within_a_batch_and_not_beyond(conn: Conn, make: Make) -> None:
    make(CHILD, PARENT)
    conn.execute("ALTER TABLE shop.child ADD FOREIGN KEY (id) REFERENCES shop.parent DEFERRABLE INITIALLY DEFERRED")
    lines: list[Line] = [[[(1, 1)], [(1,)]], [[(3, 1)], []], [[(2, 1)], [(2,)]]]
    chunk = load_chunk(conn, [CHILD, PARENT], [batch_of(lines, 2), batch_of([[[(4, 1)], [(4,)]], [[(5, 1)], []]], 2)])
    assert chunk.refused == [(1, "23503"), (1, "23503")]
    assert stored(conn, CHILD) == [(1, 1), (2, 1), (4, 1)]


@pytest.mark.parametrize("attribute_map", [False, True])
def test_partitioned_tables_take_rows_by_every_way(conn: Conn, make: Make, attribute_map: bool) -> None:
    conn.execute("CREATE SCHEMA shop; CREATE TABLE shop.updating (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE shop.low PARTITION OF shop.updating FOR VALUES FROM (0) TO (10)")
    if attribute_map:
        conn.execute("CREATE TABLE shop.high (gone int, note text, id bigint NOT NULL)")
        conn.execute(
            "ALTER TABLE shop.high DROP COLUMN gone; ALTER TABLE shop.updating ATTACH PARTITION shop.high FOR VALUES FROM (10) TO (20)"
        )
    else:
        conn.execute("CREATE TABLE shop.high PARTITION OF shop.updating FOR VALUES FROM (10) TO (20)")
    make(UPDATE)
    first = load_chunk(conn, [UPDATE], [one_row_a_line([(1, "a"), (11, "b"), (30, "nowhere")])])
    second = load_chunk(conn, [UPDATE], [one_row_a_line([(1, "c"), (12, "d")])])
    make(shared(UPDATE))
    third = load_chunk(conn, [shared(UPDATE)], [one_row_a_line([(11, "e"), (13, "f")])])
    assert first.refused == [(2, "23514")]
    assert (first.count_of(UPDATE), second.count_of(UPDATE), third.count_of(UPDATE)) == ((2, 0, 0), (1, 1, 0), (1, 1, 0))
    assert stored(conn, UPDATE) == [(1, "c"), (11, "e"), (12, "d"), (13, "f")]


def test_loaders_that_meet_on_the_same_keys_wait_for_each_other_and_never_deadlock(connect: Callable[[], Conn], make: Make) -> None:
    other = Table(name="shop.also", columns=(ID, Column("n", "bigint")), primary_key=("id",), on_conflict="add", shared=True)
    table = shared(NEWER)
    make(table, other)
    barrier = threading.Barrier(2)
    failures: list[BaseException] = []

    def work(connection: Conn, seed: int) -> None:
        try:
            for chunk_no in range(6):
                order = [(i * (7 if seed else 11) + chunk_no) % 211 for i in range(211)]
                lines: list[Line] = [[[(key, f"{seed}", chunk_no * 2 + seed)], [(key, 1)]] for key in order]
                tables = [table, other] if seed else [other, table]
                barrier.wait()
                load_chunk(connection, tables, [batch_of([line if seed else line[::-1] for line in lines], 2)])
        except BaseException as exc:  # noqa: BLE001 - handed to the test's own thread
            failures.append(exc)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(connect(), seed)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    conn = connect()
    assert conn.execute("SELECT count(*), min(n), max(n) FROM shop.also").fetchone() == (211, 12, 12)
    assert conn.execute("SELECT count(*), min(at), max(at), min(note) FROM shop.newer").fetchone() == (211, 11, 11, "1")


def test_a_batch_without_rows_asks_nothing_and_an_empty_chunk_counts_nothing(conn: Conn, make: Make) -> None:
    make(IGNORE, shared(UPDATE))
    chunk = load_chunk(conn, [IGNORE, shared(UPDATE)], [batch_of([[[], []]], 2)])
    assert (chunk.count_of(IGNORE), chunk.count_of(UPDATE)) == ((0, 0, 0), (0, 0, 0))


def test_names_of_mixed_case_and_of_any_letters_are_kept(conn: Conn, make: Make) -> None:
    table = Table(
        name='Größe.Straße "x" %s {}',
        columns=(Column("Ключ", "bigint", not_null=True), Column("a%b {c}", "text")),
        primary_key=("Ключ",),
        on_conflict="update",
        shared=True,
        provenance=True,
    )
    make(table)
    load_chunk(conn, [table], [one_row_a_line([(1, "a"), (1, "b")])])
    assert conn.execute('SELECT "Ключ", "a%b {c}" FROM "Größe"."Straße ""x"" %s {}"').fetchall() == [(1, "b")]  # no parameters: % is itself
    make(table)


def test_seconds_go_to_their_stages(conn: Conn, make: Make) -> None:
    make(shared(IGNORE))
    chunk = load_chunk(conn, [shared(IGNORE)], [one_row_a_line([(1, "a")])])
    assert chunk.clock.seconds["copy"] > 0
    assert chunk.clock.seconds["merge"] > 0


def test_rejects_written_after_a_batch_outlive_the_faults_of_the_next_one(conn: Conn, make: Make) -> None:
    make(PLAIN)
    conn.execute("CREATE TABLE reject (batch integer)")
    refused_by_server = one_row_a_line([(1, "a"), (1, "b")])
    refused_by_pipeline = one_row_a_line([(2, "c")])
    refused_by_pipeline.rejected.append(Verdict(0, "no"))
    refused_in_part = one_row_a_line([(3, "d")])
    refused_in_part.parts.append(Verdict(0, "no", part="x"))
    refused_whole = BatchRows(1, [TableRows([], [0])], rejected=[Verdict(0, "no")])
    with conn.transaction():
        loader = ChunkLoader(conn, describe(conn, [PLAIN]), task_id=7, check_fence=lambda: None, clock=StageClock(), now=lambda: 0.0)
        for number, batch in enumerate(
            [refused_by_server, refused_by_pipeline, refused_in_part, one_row_a_line([(4, "e")]), refused_whole]
        ):
            loader.load(batch)
            if number != 3:
                conn.execute("INSERT INTO reject VALUES (%s)", (number,))
            assert len(loader.load(one_row_a_line([(1, "again")]))) == 1
        loader.finish()
    assert conn.execute("SELECT batch FROM reject ORDER BY 1").fetchall() == [(0,), (1,), (2,), (4,)]


def test_rows_that_are_not_newer_wait_for_no_lock(connect: Callable[[], Conn], conn: Conn, make: Make) -> None:
    make(shared(NEWER))
    load_chunk(conn, [shared(NEWER)], [one_row_a_line([(1, "stored", 5), (2, "stored", 5)])])
    other = connect()
    with other.transaction():
        other.execute("UPDATE shop.newer SET note = 'locked' WHERE id = 1")
        conn.execute("SET lock_timeout = '1s'")
        chunk = load_chunk(conn, [shared(NEWER)], [one_row_a_line([(1, "older", 4), (2, "newer", 6)])])
    assert chunk.count_of(NEWER) == (0, 1, 1)
    with other.transaction():
        other.execute("UPDATE shop.newer SET note = 'locked' WHERE id = 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            load_chunk(conn, [shared(NEWER)], [one_row_a_line([(1, "newer", 6)])])


@pytest.mark.parametrize(("table", "is_shared"), [(PLAIN, False), (IGNORE, False), (UPDATE, False), (IGNORE, True), (UPDATE, True)])
def test_a_key_too_long_for_its_index_is_its_lines_fault(conn: Conn, make: Make, table: Table, is_shared: bool) -> None:
    named = replace(table, columns=(Column("id", "text", not_null=True), NOTE), shared=is_shared)
    make(named)
    long = random.Random(7).randbytes(10_000).hex()  # text that does not compress below the third of a page
    rows = [("a", "x"), (long, "y"), ("b", "z")]
    if is_shared:
        with pytest.raises(SchemaViolation):
            load_chunk(conn, [named], [one_row_a_line(rows)])
    chunk = load_chunk(conn, [named], [one_row_a_line(rows)], merge_each_batch=is_shared)
    assert chunk.refused == [(1, "54000")]
    assert stored(conn, named) == [("a", "x"), ("b", "z")]


def test_a_reason_repeats_no_whole_value(conn: Conn, make: Make) -> None:
    table = Table(name="public.told", columns=(ID, Column("size", "size"), Column("day", "date"), NOTE), primary_key=("id",))
    conn.execute("CREATE TYPE size AS ENUM ('small')")
    make(table)
    conn.execute("""
        CREATE FUNCTION repeat_it() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.note <> 'fine' THEN RAISE EXCEPTION 'bad: %', NEW.note; END IF; RETURN NEW; END $$;
        CREATE TRIGGER repeat_it BEFORE INSERT ON told FOR EACH ROW EXECUTE FUNCTION repeat_it();
    """)
    long = "x" * 1_000_000
    rows = [(1, long, None, "fine"), (2, None, long, "fine"), (3, None, None, long), (4, "small", "2024-05-01", "fine")]
    chunk = load_chunk(conn, [table], [one_row_a_line(rows)])
    assert chunk.refused == [(0, "22P02"), (1, "22P02"), (2, "P0001")]
    assert max(len(fault.reason) for fault in chunk.faults) <= 520
