"""Tables at submit: made, found equal, or refused with what and what to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from protheon_dask.errors import ConfigError, TargetRefused
from protheon_dask.pipelines.table import Column, Table
from protheon_dask.sink.catalog import describe
from protheon_dask.sink.targets import create_path_view, ensure_tables
from tests.integration.sink.conftest import load_chunk, one_row_a_line

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

COLUMNS = (
    Column("id", "bigint", not_null=True, comment="it's the key"),
    Column("sizes", "integer[]"),
    Column("price", "numeric(10,2)"),
    Column("at", "timestamptz", comment="when"),
)


def table_of(name: str = "shop.order", **options: Any) -> Table:
    return Table(**{"name": name, "columns": COLUMNS, "primary_key": ("id",), "comment": "orders", **options})


def test_a_missing_table_is_made_with_types_key_comments_and_provenance_and_is_then_found_equal(conn: Conn, make: Make) -> None:
    table = table_of(provenance=True, on_conflict="update", shared=True)
    assert make(table) == make(table) == []
    columns = conn.execute("""
        SELECT attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum) FROM pg_attribute
         WHERE attrelid = 'shop.order'::regclass AND attnum > 0 ORDER BY attnum
    """).fetchall()
    assert columns == [
        ("id", "bigint", True, "it's the key"),
        ("sizes", "integer[]", False, None),
        ("price", "numeric(10,2)", False, None),
        ("at", "timestamp with time zone", False, "when"),
        ("_protheon_chunk", "bigint", False, "id of the chunk's task in protheon.task"),
    ]
    about = conn.execute("""
        SELECT obj_description(conrelid), pg_get_constraintdef(oid) FROM pg_constraint
         WHERE contype = 'p' AND conrelid = 'shop.order'::regclass
    """).fetchone()
    assert about == ("orders", "PRIMARY KEY (id)")
    assert conn.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'protheon_declared%'").fetchone() == (0,)


def test_two_submits_at_once_make_one_table(connect: Callable[[], Conn], conn: Conn) -> None:
    barrier = threading.Barrier(2)
    failures: list[BaseException] = []

    def submit(connection: Conn) -> None:
        try:
            barrier.wait()
            with connection.transaction():
                ensure_tables(connection, [table_of(), table_of("shop.other")])
        except BaseException as exc:  # noqa: BLE001 - handed to the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=submit, args=(connect(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'shop'").fetchone() == (2,)


FOREIGN_SERVER = "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w"
PARTITIONED = "CREATE TABLE shop.order (id bigint PRIMARY KEY) PARTITION BY RANGE (id)"


@pytest.mark.parametrize(
    ("ddl", "named"),
    [
        ("CREATE UNLOGGED TABLE shop.order (id bigint PRIMARY KEY)", "unlogged"),
        ("CREATE VIEW shop.order AS SELECT 1", "a view"),
        ("CREATE MATERIALIZED VIEW shop.order AS SELECT 1", "a materialized view"),
        ("CREATE SEQUENCE shop.order", "a sequence"),
        (f"{FOREIGN_SERVER}; CREATE FOREIGN TABLE shop.order (id bigint) SERVER s", "foreign"),
        (f"{PARTITIONED}; CREATE UNLOGGED TABLE shop.p PARTITION OF shop.order DEFAULT", "shop.p"),
    ],
)
def test_relations_that_keep_no_rows_of_ours_are_refused(conn: Conn, make: Make, ddl: str, named: str) -> None:
    conn.execute("CREATE SCHEMA shop")
    conn.execute(ddl)
    with pytest.raises(TargetRefused, match=named):
        make(table_of())


def test_every_difference_is_named_at_once(conn: Conn, make: Make) -> None:
    conn.execute("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.order (id integer PRIMARY KEY, sizes bigint[], price numeric, at timestamptz GENERATED ALWAYS AS (NULL) STORED,
                                 who text NOT NULL, fine text NOT NULL DEFAULT '', auto bigint GENERATED ALWAYS AS IDENTITY)
    """)
    with pytest.raises(TargetRefused) as refused:
        make(table_of(provenance=True))
    for part in (
        "'id' is integer, the pipeline's is bigint",
        "'sizes' is bigint[]",
        "'price' is numeric, the pipeline's is numeric(10,2)",
        "'at' is generated",
        "no column '_protheon_chunk'",
        "'who' is NOT NULL without a default",
    ):
        assert part in str(refused.value)
    assert "fine" not in str(refused.value)
    assert "auto" not in str(refused.value)


ORDER_COLUMNS = "id bigint NOT NULL, sizes int[], price numeric(10,2), at timestamptz"


@pytest.mark.parametrize(
    ("ddl", "options", "named"),
    [
        ("", {"on_conflict": "ignore"}, "no unique index on"),
        ("CREATE UNIQUE INDEX ON shop.order (id) WHERE price > 0", {"on_conflict": "ignore"}, "no unique index on"),
        ("ALTER TABLE shop.order ADD UNIQUE (id) DEFERRABLE", {"on_conflict": "update"}, "not deferrable"),
        ("CREATE UNIQUE INDEX ON shop.order (id, at)", {}, "no unique index on"),
        (
            "ALTER TABLE shop.order ADD PRIMARY KEY (id), ADD UNIQUE (at)",
            {"on_conflict": "ignore", "shared": True},
            "exactly one unique index",
        ),
        ("ALTER TABLE shop.order ADD UNIQUE (id), ALTER id DROP NOT NULL", {"on_conflict": "ignore"}, "may be null"),
        ("ALTER TABLE shop.order ADD PRIMARY KEY (id), ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", {}, None),
    ],
)
def test_keys_that_cannot_carry_the_rule_are_refused(conn: Conn, make: Make, ddl: str, options: dict[str, Any], named: str | None) -> None:
    conn.execute(f"CREATE SCHEMA shop; CREATE TABLE shop.order ({ORDER_COLUMNS}); {ddl}")
    if named is None:  # a superuser passes row-level security
        assert make(table_of(**options)) == []
        return
    with pytest.raises(TargetRefused, match=named):
        make(table_of(**options))


def test_an_existing_table_may_be_stricter_and_wider_than_the_pipeline(conn: Conn, make: Make) -> None:
    conn.execute("""
        CREATE SCHEMA shop; CREATE DOMAIN shop.price AS numeric(10,2) CHECK (VALUE >= 0);
        CREATE TABLE shop.order (
            auto bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, price shop.price NOT NULL, sizes int[], id bigint PRIMARY KEY,
            made timestamptz NOT NULL DEFAULT now(), twice numeric GENERATED ALWAYS AS (price * 2) STORED);
    """)
    table = table_of(on_conflict="update", shared=True)
    make(table)
    rows: list[tuple[Any, ...]] = [(1, (4, 5), "1.5", "2024-05-01T10:00:00Z"), (2, None, -1, None), (3, [], None, None)]
    chunk = load_chunk(conn, [table], [one_row_a_line(rows)])
    assert chunk.refused == [(1, "23514"), (2, "23502")]
    found = conn.execute("""
        SELECT auto, id, sizes, price::text, twice::text, at AT TIME ZONE 'UTC' = '2024-05-01 10:00', made IS NOT NULL FROM shop.order
    """).fetchall()
    assert found == [(1, 1, [4, 5], "1.50", "3.00", True, True)]


def test_triggers_are_named_in_a_warning(conn: Conn, make: Make) -> None:
    make(table_of())
    conn.execute("""
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER "audit it" AFTER INSERT ON shop.order FOR EACH ROW EXECUTE FUNCTION f();
    """)
    [warning] = make(table_of())
    assert "audit it" in warning
    assert "shop.order" in warning


def test_a_role_without_rights_is_told_so(conn: Conn, make: Make) -> None:
    conn.execute("DROP ROLE IF EXISTS nobody_much; CREATE ROLE nobody_much")
    make(table_of())
    conn.execute("GRANT USAGE ON SCHEMA shop TO nobody_much; SET ROLE nobody_much")
    try:
        for table, words in [
            (table_of(), "no right to INSERT"),
            (table_of("shop.another"), "lacks a right: permission denied for schema shop"),
            (table_of("nowhere.another"), "permission denied for database"),
        ]:
            with pytest.raises(ConfigError, match=words):
                make(table)
    finally:
        conn.execute("RESET ROLE; DROP OWNED BY nobody_much; DROP ROLE nobody_much")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (Column("x", "no_such_type"), "no_such_type"),
        (Column("x", "point"), "no way to send x point"),
        (Column("x", "int4range[]"), "no way to send x int4range"),
        (Column("x" * 64, "text"), "63 bytes"),
        (Column("Ü" * 32, "text"), "63 bytes"),
    ],
)
def test_columns_that_cannot_be_made_or_sent_are_refused(make: Make, column: Column, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        make(Table(name="shop.odd", columns=(column,)))


def test_only_numbers_can_be_added_up(make: Make) -> None:
    columns = (Column("id", "bigint", not_null=True), Column("name", "text"))
    with pytest.raises(TargetRefused, match="cannot add up name"):
        make(Table(name="shop.sums", columns=columns, primary_key=("id",), on_conflict="add"))


def test_a_table_that_is_gone_or_altered_since_the_submit_is_not_described(conn: Conn, make: Make) -> None:
    with pytest.raises(TargetRefused, match=r"shop\.order"):
        describe(conn, [table_of()])
    make(table_of())
    conn.execute("ALTER TABLE shop.order DROP COLUMN price")
    with pytest.raises(TargetRefused, match="price"):
        describe(conn, [table_of()])


DOCS = Table(
    name="public.events",
    columns=(Column("load_id", "bigint", not_null=True), Column("line_no", "bigint", not_null=True), Column("doc", "jsonb")),
    primary_key=("load_id", "line_no"),
    on_conflict="ignore",
)


def test_the_path_view_tells_where_each_line_came_from(conn: Conn, make: Make) -> None:
    conn.execute("CREATE SCHEMA protheon; CREATE TABLE protheon.run_load (run_id bigint, load_id bigint, path text, joined text)")
    conn.execute("INSERT INTO protheon.run_load VALUES (2, 1, '/b', 'skipped'), (1, 1, '/a', 'new')")
    make(DOCS)
    with conn.transaction():
        assert create_path_view(conn, DOCS) == create_path_view(conn, DOCS) == []
    load_chunk(conn, [DOCS], [one_row_a_line([(1, 1, b'{"a":1}'), (9, 1, "[]")])])
    found = conn.execute("SELECT load_id, line_no, doc, path FROM events_with_path ORDER BY 1").fetchall()
    assert found == [(1, 1, {"a": 1}, "/a"), (9, 1, [], None)]
    conn.execute("DROP VIEW events_with_path; CREATE TABLE events_with_path ()")
    with pytest.raises(TargetRefused, match="no view"):
        create_path_view(conn, DOCS)
