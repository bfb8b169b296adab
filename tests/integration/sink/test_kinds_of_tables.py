"""Tables as people have them: partitioned, inherited, with triggers, rules, generated and identity columns, constraints of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from protheon_dask.errors import ConfigError, SchemaViolation, TargetRefused
from protheon_dask.pipelines.table import Column, ForeignKey, OnConflict, Table
from tests.integration.sink.conftest import Chunk, Line, batch_of, load_chunk, one_row_a_line

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

ID, NOTE = Column("id", "bigint", not_null=True), Column("note", "text")
T = Table(name="shop.t", columns=(ID, NOTE), primary_key=("id",))
WAYS = [("error", False), ("ignore", False), ("update", False), ("ignore", True), ("update", True), ("add", True)]
"""Every rule, with rows that go in directly and those that are staged and merged last."""


def table_of(on_conflict: OnConflict, shared: bool, **options: Any) -> Table:
    return replace(T, on_conflict=on_conflict, shared=shared, **options)


def load(conn: Conn, table: Table, *rows: tuple[Any, ...]) -> Chunk:
    """Load rows as a worker does: once more batch by batch where the last merge refuses one."""
    try:
        return load_chunk(conn, [table], [one_row_a_line(rows)])
    except SchemaViolation:
        return load_chunk(conn, [table], [one_row_a_line(rows)], merge_each_batch=True)


def stored(conn: Conn, name: str = "shop.t") -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()


FIRST = Table(name="shop.a_first", columns=(ID,), primary_key=("id",))
SECOND = Table(name="shop.b_second", columns=(ID, Column("n", "integer")), primary_key=("id",))


@pytest.mark.parametrize(("on_conflict", "shared"), WAYS)
def test_a_line_whose_last_table_refuses_leaves_nothing_in_the_others(
    conn: Conn, make: Make, on_conflict: OnConflict, shared: bool
) -> None:
    """The third table has a check that staging knows, and a foreign key that only the merge meets."""
    columns = (ID, Column("n", "integer"))
    third = Table(name="shop.c_third", columns=columns, primary_key=("id",), on_conflict=on_conflict, shared=shared)
    second = replace(SECOND, on_conflict=on_conflict, shared=shared)
    make(FIRST, second, third)
    conn.execute("CREATE TABLE shop.known (n integer PRIMARY KEY); INSERT INTO shop.known SELECT generate_series(0, 9)")
    conn.execute("ALTER TABLE shop.c_third ADD CHECK (n <> 7), ADD FOREIGN KEY (n) REFERENCES shop.known")
    n_of = {3: 7, 8: 99, 11: 2**40}  # the check, the foreign key, no integer
    lines: list[Line] = [[[(i,)], [(i, i)], [(i, n_of.get(i, i % 5))]] for i in range(14)]
    batches = [batch_of(lines[:6], 3), batch_of(lines[6:], 3)]
    if shared:
        with pytest.raises(SchemaViolation, match="23503"):
            load_chunk(conn, [FIRST, second, third], batches)
    chunk = load_chunk(conn, [FIRST, second, third], batches, merge_each_batch=shared)
    assert chunk.refused == [(3, "23514"), (2, "23503"), (5, "22003")]
    assert {fault.table for fault in chunk.faults} == {"shop.c_third"}
    good = [i for i in range(14) if i not in n_of]
    for name in ("shop.a_first", "shop.b_second", "shop.c_third"):
        assert [row[0] for row in stored(conn, name)] == good
    for table in (FIRST, second, third):
        assert chunk.count_of(table) == (11, 0, 0)


PARTITIONS = {
    "range": "PARTITION BY RANGE (id); CREATE TABLE shop.p PARTITION OF shop.t FOR VALUES FROM (0) TO (10)",
    "list": "PARTITION BY LIST (id); CREATE TABLE shop.p PARTITION OF shop.t FOR VALUES IN (1, 2, 3, 4, 5)",
    "hash": "PARTITION BY HASH (id); CREATE TABLE shop.p PARTITION OF shop.t FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
}


@pytest.mark.parametrize(("on_conflict", "shared"), [way for way in WAYS if way[0] != "add"])
@pytest.mark.parametrize("kind", PARTITIONS)
def test_a_row_without_a_partition_is_its_lines_reject_until_the_partition_is_there(
    conn: Conn, make: Make, kind: str, on_conflict: OnConflict, shared: bool
) -> None:
    conn.execute(f"CREATE SCHEMA shop; CREATE TABLE shop.t (id bigint PRIMARY KEY, note text) {PARTITIONS[kind]}")
    table = table_of(on_conflict, shared)
    make(table)
    chunk = load(conn, table, (1, "a"), (77, "nowhere"), (2, "b"))
    if kind == "hash":
        assert not chunk.faults
        return
    assert chunk.refused == [(1, "23514")]
    assert "partition" in chunk.faults[0].reason
    conn.execute(f"CREATE TABLE shop.q PARTITION OF shop.t {'DEFAULT' if kind == 'list' else 'FOR VALUES FROM (70) TO (80)'}")
    assert load(conn, table, (77, "somewhere")).count_of(table) == (1, 0, 0)
    assert stored(conn) == [(1, "a"), (2, "b"), (77, "somewhere")]


def test_a_key_that_only_a_partition_has_is_refused_where_chunks_would_lock_in_two_orders(conn: Conn, make: Make) -> None:
    conn.execute(f"CREATE SCHEMA shop; CREATE TABLE shop.t (id bigint PRIMARY KEY, note text) {PARTITIONS['range']}")
    conn.execute("CREATE UNIQUE INDEX own ON shop.p (note)")
    with pytest.raises(TargetRefused, match=r"exactly one unique index.*it has shop.t_pkey, shop.own"):
        make(table_of("ignore", shared=True))
    make(table_of("ignore", shared=False))
    assert load(conn, table_of("ignore", shared=False), (1, "a"), (2, "a"), (1, "b")).refused == [(1, "23505")]


DROPPING = """
CREATE FUNCTION shop.drop_some() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.note = 'out' THEN RETURN NULL; END IF;
    IF NEW.note = 'no' THEN RAISE EXCEPTION 'not this one'; END IF;
    IF NEW.note = 'change' THEN NEW.note := 'changed'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER "drop some" BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION shop.drop_some();
"""
NOTICE = "table shop.t: a trigger drops rows (drop some): they count as ignored"


@pytest.mark.parametrize("owner", ["shop.t", "shop.p"], ids=["table", "partition"])
@pytest.mark.parametrize(("on_conflict", "shared"), [way for way in WAYS if way[0] != "add"])
def test_rows_that_a_trigger_changes_drops_or_refuses(conn: Conn, make: Make, owner: str, on_conflict: OnConflict, shared: bool) -> None:
    partitioned = PARTITIONS["range"] if owner == "shop.p" else ""
    conn.execute(f"CREATE SCHEMA shop; CREATE TABLE shop.t (id bigint PRIMARY KEY, note text) {partitioned}; {DROPPING.format(owner)}")
    table = table_of(on_conflict, shared)
    [warning] = make(table)
    assert (
        f"shop.t has triggers, which run for each row and may change, drop or refuse it: drop some{' of shop.p' if partitioned else ''};"
        in warning
    )
    chunk = load(conn, table, (1, "a"), (2, "change"), (3, "out"), (4, "no"), (5, "out"))
    assert chunk.refused == [(3, "P0001")]
    assert stored(conn) == [(1, "a"), (2, "changed")]
    assert chunk.count_of(table) == (2, 0, 2)
    assert chunk.notices == (NOTICE,)
    assert load(conn, table, (6, "b"), *([(1, "a")] if on_conflict != "error" else [])).notices == ()


def test_rules_are_refused_where_on_conflict_forbids_them_and_named_elsewhere(conn: Conn, make: Make) -> None:
    make(T)
    conn.execute("CREATE RULE elsewhere AS ON INSERT TO shop.t DO ALSO NOTIFY somebody")
    [warning] = make(T)
    assert "rules, which COPY does not follow: elsewhere" in warning
    with pytest.raises(TargetRefused, match="ON CONFLICT: elsewhere"):
        make(table_of("ignore", shared=True))


@pytest.mark.parametrize(("on_conflict", "shared"), WAYS[:5])
def test_a_table_that_others_inherit_from_keeps_its_own_key(conn: Conn, make: Make, on_conflict: OnConflict, shared: bool) -> None:
    """The key of a parent does not reach into its children, so their rows are none of its conflicts."""
    table = table_of(on_conflict, shared)
    make(table)
    conn.execute("CREATE TABLE shop.child (more integer) INHERITS (shop.t); INSERT INTO shop.child VALUES (1, 'of the child')")
    assert load(conn, table, (1, "mine"), (2, "b")).count_of(table) == (2, 0, 0)
    assert stored(conn, "ONLY shop.t") == [(1, "mine"), (2, "b")]
    child = replace(table, name="shop.child", on_conflict="error", shared=False, primary_key=())
    make(child)
    assert load(conn, child, (1, "again")).count_of(child) == (1, 0, 0)


@pytest.mark.parametrize("shared", [False, True])
def test_generated_identity_and_default_columns_that_the_pipeline_does_not_fill(conn: Conn, make: Make, shared: bool) -> None:
    virtual = ", shout text GENERATED ALWAYS AS (upper(note)) VIRTUAL" if conn.info.server_version >= 180000 else ""
    conn.execute(f"""
        CREATE SCHEMA shop; CREATE DOMAIN shop.short AS text NOT NULL DEFAULT 'x' CHECK (length(VALUE) < 5);
        CREATE TABLE shop.t (serial bigserial, always bigint GENERATED ALWAYS AS IDENTITY, given bigint GENERATED BY DEFAULT AS IDENTITY,
            made timestamptz NOT NULL DEFAULT now(), domain shop.short, id bigint PRIMARY KEY, note text,
            length integer GENERATED ALWAYS AS (length(note)) STORED{virtual}, CHECK (length < 4));
    """)
    table = table_of("update", shared)
    make(table)
    chunk = load(conn, table, (1, "abc"), (2, "abcd"), (3, "ab"))
    assert chunk.refused == [(1, "23514")]
    chunk = load(conn, table, (1, "a"), (4, None))
    assert chunk.count_of(table) == (1, 1, 0)
    assert conn.execute("SELECT id, note, length, domain FROM shop.t ORDER BY id").fetchall() == [
        (1, "a", 1, "x"),
        (3, "ab", 2, "x"),
        (4, None, None, "x"),
    ]
    assert conn.execute("SELECT count(*) FROM shop.t WHERE serial IS NULL OR always IS NULL OR given IS NULL").fetchone() == (0,)
    with pytest.raises(TargetRefused, match="'always' is GENERATED ALWAYS AS IDENTITY; make it GENERATED BY DEFAULT"):
        make(replace(table, columns=(*table.columns, Column("always", "bigint"))))
    if virtual:
        with pytest.raises(TargetRefused, match="'shout' is generated and cannot be written"):
            make(replace(table, columns=(*table.columns, Column("shout", "text"))))
    given = replace(table, columns=(*table.columns, Column("given", "bigint", not_null=True)))
    make(given)
    assert load(conn, given, (9, "i", 77)).count_of(given) == (1, 0, 0)
    assert conn.execute("SELECT given FROM shop.t WHERE id = 9").fetchone() == (77,)


def test_a_deferred_unique_constraint_may_be_broken_within_a_batch_and_refuses_the_line_that_ends_it(conn: Conn, make: Make) -> None:
    make(T)
    conn.execute("ALTER TABLE shop.t ADD CONSTRAINT late UNIQUE (note) DEFERRABLE INITIALLY DEFERRED")
    assert load(conn, T, (1, "a"), (2, "b"), (3, "a")).refused == [(2, "23505")]
    assert load(conn, T, (4, "b"), (5, "c")).refused == [(0, "23505")]
    assert stored(conn) == [(1, "a"), (2, "b"), (5, "c")]
    shared = table_of("update", shared=True)
    with pytest.raises(TargetRefused, match="exactly one unique index"):
        make(shared)


@pytest.mark.parametrize("on_conflict", ["error", "ignore"])
def test_an_exclusion_constraint_refuses_its_line_and_a_shared_table_may_not_have_one(
    conn: Conn, make: Make, on_conflict: OnConflict
) -> None:
    table = table_of(on_conflict, shared=False)
    make(table)
    conn.execute("ALTER TABLE shop.t ADD CONSTRAINT apart EXCLUDE USING btree (note WITH =)")
    chunk = load(conn, table, (1, "a"), (2, "b"), (3, "a"))
    assert chunk.refused == [(2, "23P01")]
    assert "(note)=(a)" in chunk.faults[0].reason
    assert load(conn, table, (4, "b"), (5, "c")).refused == [(0, "23P01")]
    with pytest.raises(TargetRefused, match=r"no exclusion constraint.*apart"):
        make(table_of("ignore", shared=True))


@pytest.fixture
def role(conn: Conn) -> Any:
    """A role that may do nothing; the connection takes it on when the test says so."""
    name = "protheon_reader"
    conn.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name}")
    yield name
    conn.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    ("grants", "table", "words"),
    [
        ("GRANT INSERT ON shop.t TO {}", T, 'may not use the schema of shop.t: GRANT USAGE ON SCHEMA "shop"'),
        ("GRANT USAGE ON SCHEMA shop TO {}", T, "no right to INSERT on shop.t"),
        ("GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT ON shop.t TO {}", T, None),
        ("GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT ON shop.t TO {}", table_of("ignore", False), "no right to SELECT on shop.t"),
        ("GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT, SELECT ON shop.t TO {}", table_of("ignore", True), None),
        ("GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT, SELECT ON shop.t TO {}", table_of("update", True), "no right to UPDATE"),
        ("GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT, SELECT, UPDATE ON shop.t TO {}", table_of("update", True), None),
        (
            "GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT ON shop.t TO {}",
            replace(T, indexes=(("note",),)),
            r"does not own shop.t and cannot make its index \(note\)",
        ),
        ("GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT ON shop.t TO {}", replace(T, indexes=(("id",),)), None),
        (
            "GRANT USAGE ON SCHEMA shop TO {}; GRANT INSERT ON shop.t TO {}; ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY",
            T,
            "row-level security",
        ),
    ],
)
def test_what_a_role_lacks_is_said_at_submit_and_what_it_has_is_enough(
    conn: Conn, make: Make, role: str, grants: str, table: Table, words: str | None
) -> None:
    make(T)
    conn.execute(grants.replace("{}", role))
    conn.execute(f"SET ROLE {role}")
    if words is not None:
        with pytest.raises(ConfigError, match=words):
            make(table)
        return
    make(table)
    assert load(conn, table, (1, "a"), (2, "b")).count_of(table) == (2, 0, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"indexes": (("doc",),)}, r"its index \(doc\) cannot be made: data type json has no default operator class"),
        ({"foreign_keys": (ForeignKey(("id",), "shop.nowhere", ("id",)),)}, "there is no table shop.nowhere"),
        ({"foreign_keys": (ForeignKey(("id",), "shop.t", ("note",)),)}, "no unique constraint matching given keys"),
        ({"foreign_keys": (ForeignKey(("id",), "shop.t", ("gone",)),)}, '"gone"'),
        ({"foreign_keys": (ForeignKey(("doc",), "shop.t", ("id",)),)}, "cannot be implemented"),
    ],
)
def test_what_could_not_be_made_at_the_end_is_refused_at_the_beginning(conn: Conn, make: Make, options: dict[str, Any], words: str) -> None:
    make(T)
    with pytest.raises(TargetRefused, match=words):
        make(Table(name="shop.late", columns=(ID, Column("doc", "json")), **options))
    assert conn.execute("SELECT to_regclass('shop.late')").fetchone() == (None,)


def test_a_foreign_key_to_a_table_of_the_same_pipeline_or_to_itself_is_no_trouble(make: Make) -> None:
    keys = (ForeignKey(("up",), "shop.tree", ("id",)), ForeignKey(("id",), "t", ("id",)))
    tree = Table(name="shop.tree", columns=(ID, Column("up", "bigint")), primary_key=("id",), foreign_keys=keys)
    assert make(tree, replace(T, name="public.t")) == []


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (replace(T, name="protheon.run"), "Protheon's own ledger"),
        (replace(T, name="shop." + "ü" * 32), "the name of table 'üüüü.*of 64 bytes: names have 1 to 63 bytes"),
        (replace(T, name="ü" * 32 + ".t"), "the name of schema 'üüüü.*of 64 bytes"),
        (replace(T, name="shop."), "the name of table '', of 0 bytes"),
        (replace(T, name="shop.a\0b"), "it is no text"),
        (replace(T, name="shop.\ud800"), "it is no text"),
        (replace(T, columns=(ID, Column("_protheon_row", "text"))), "names that begin with _protheon_"),
        (replace(T, columns=(ID, Column("xmin", "text"))), "conflicts with a system column name"),
        (replace(T, name="pg_shop.t"), "unacceptable schema name"),
    ],
)
def test_names_that_postgresql_cannot_keep_are_refused_with_their_bytes(make: Make, table: Table, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(table)


ODD = [
    "select",
    "user",
    "t",
    "o",
    "stored",
    "rank",
    "old",
    "new",
    "excluded",
    "is_new",
    "n",
    "offered",
    'a "quoted" one',
    "Straße.Ключ",
    "x%s",
    "{}",
]


@pytest.mark.parametrize(("on_conflict", "shared"), WAYS)
@pytest.mark.parametrize("name", ["public.excluded", "order.t", 'My "Schema".t.with.dots', "Größe.merged"])
def test_reserved_quoted_dotted_and_foreign_names_are_kept_as_they_are(
    conn: Conn, make: Make, name: str, on_conflict: OnConflict, shared: bool
) -> None:
    columns = (Column("ID", "bigint", not_null=True), *(Column(odd, "integer") for odd in ODD))
    newer_by = "rank" if on_conflict == "update" else None
    indexes = (("ID", "user"),)
    table = Table(
        name=name,
        columns=columns,
        primary_key=("ID",),
        on_conflict=on_conflict,
        shared=shared,
        newer_by=newer_by,
        provenance=True,
        indexes=indexes,
    )
    make(table)
    make(table)
    row = tuple(range(1, len(ODD) + 1))
    load(conn, table, (1, *row), (2, *row))
    if on_conflict != "error":
        load(conn, table, (2, *(n + 1 for n in row)), (3, *row))
    schema, _, relation = name.partition(".")
    quoted = psycopg.sql.Identifier(schema, relation).as_string(conn)
    got = conn.execute(f'SELECT * FROM {quoted} ORDER BY "ID"'.encode()).fetchall()
    second = {"error": row, "ignore": row, "update": tuple(n + 1 for n in row), "add": tuple(2 * n + 1 for n in row)}[on_conflict]
    assert got == [(1, *row, 7), (2, *second, 7)] + ([(3, *row, 7)] if on_conflict != "error" else [])
