"""Target tables at submit: made where they are missing, checked where they exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from protheon_dask.errors import ConfigError, TargetRefused
from protheon_dask.pipelines.table import PROVENANCE, Column, Table
from protheon_dask.sink.catalog import (
    CatalogColumn,
    Connection,
    Relation,
    Target,
    describe,
    read_columns,
    read_relation,
    read_unique_indexes,
    sent_columns,
)
from protheon_dask.sink.faults import reason_of, translate

ADVISORY_CLASS, LOCK_TARGETS = 0x50524F, 3
"""Protheon's two-integer advisory lock for making tables; the first key is "PRO", 1 and 2 are the ledger's."""

MAX_NAME_BYTES: Final = 63
"""PostgreSQL cuts longer names silently (NAMEDATALEN - 1)."""

KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
    "I": "an index",
}
"""pg_class.relkind of what takes no rows of ours."""

PERSISTENCES: Final = {
    "u": "unlogged: a crash of the server empties it, while the ledger would call its rows loaded",
    "t": "temporary",
}
"""pg_class.relpersistence of tables that do not keep what the ledger says they have."""

SUMMABLE_OIDS: Final = frozenset({20, 21, 23, 700, 701, 1186, 1700})
"""Types that ``add`` can add up: integers, floats, interval, numeric."""


def ensure_tables(conn: Connection, tables: Sequence[Table]) -> list[str]:
    """Make the tables that are missing, check those that exist, and return warnings.

    Raises:    TargetRefused: a table exists and cannot take the rows; every difference is named. ConfigError: a type or
               a right is missing. Nothing is kept then once the caller rolls back.
    Guarantee: in the caller's transaction, never commits; idempotent; two submits at once wait for each other.
    """
    try:
        conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_TARGETS))
        warnings: list[str] = []
        for number, table in enumerate(tables):
            _check_names(table)
            relation = read_relation(conn, table.schema, table.relation)
            if relation is None:
                _create(conn, table)
            else:
                _check_relation(table, relation)
                _check_columns(table, _declared_columns(conn, table, number), read_columns(conn, relation.oid))
                _check_keys(conn, table, relation.oid)
                warnings += _warnings(table, relation)
        for target in describe(conn, tables):  # refuses types that cannot be sent
            _check_sums(target)
    except psycopg.errors.InsufficientPrivilege as exc:
        raise ConfigError(f"the database role {conn.info.user!r} lacks a right: {reason_of(exc)}; grant it, or use another role") from exc
    except psycopg.errors.UndefinedObject as exc:  # a type
        raise ConfigError(f"a table of the pipeline cannot be made: {reason_of(exc)}") from exc
    except psycopg.Error as exc:
        raise translate(exc) from exc
    return warnings


def create_path_view(conn: Connection, table: Table) -> str:
    """Make the view ``<table>_with_path`` of a table that has a load_id, and return its name.

    The path is that of the run that first asked for the load. Idempotent; never commits.
    Raises: TargetRefused: the name is taken by something else, or is too long.
    """
    view = f"{table.relation}_with_path"
    if len(view.encode()) > MAX_NAME_BYTES:
        raise TargetRefused(f"table {table.name}: the name of its view, {view!r}, is over {MAX_NAME_BYTES} bytes; choose a shorter name")
    found = read_relation(conn, table.schema, view)
    if found is not None and found.kind != "v":
        raise TargetRefused(f"{table.schema}.{view} exists and is no view; rename it, or load into another table")
    statement = sql.SQL(PATH_VIEW).format(view=sql.Identifier(table.schema, view), table=sql.Identifier(table.schema, table.relation))
    try:
        conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_TARGETS))
        conn.execute(statement)
    except psycopg.Error as exc:
        raise translate(exc) from exc
    return f"{table.schema}.{view}"


PATH_VIEW: Final = """
CREATE OR REPLACE VIEW {view} AS
SELECT loaded.*, found.path
  FROM {table} AS loaded
  LEFT JOIN (SELECT DISTINCT ON (load_id) load_id, path FROM protheon.run_load ORDER BY load_id, run_id, path) AS found
    ON found.load_id = loaded.load_id
"""


def _create(conn: Connection, table: Table) -> None:
    if conn.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (table.schema,)).fetchone() is None:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(table.schema)))
    identifier = sql.Identifier(table.schema, table.relation)
    lines: list[sql.Composable] = [_column(column) for column in _all_columns(table)]
    if table.primary_key:
        lines.append(sql.SQL("PRIMARY KEY ({})").format(sql.SQL(", ").join(map(sql.Identifier, table.primary_key))))
    conn.execute(sql.SQL("CREATE TABLE {} ({})").format(identifier, sql.SQL(", ").join(lines)))
    if table.comment is not None:
        conn.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(identifier, sql.Literal(table.comment)))
    for column in _all_columns(table):
        if column.comment is not None:
            name = sql.Identifier(table.schema, table.relation, column.name)
            conn.execute(sql.SQL("COMMENT ON COLUMN {} IS {}").format(name, sql.Literal(column.comment)))


def _all_columns(table: Table) -> tuple[Column, ...]:
    own = (Column(PROVENANCE, "bigint", comment="id of the chunk's task in protheon.task"),) if table.provenance else ()
    return table.columns + own


def _column(column: Column) -> sql.Composed:
    # A type is SQL text by its nature ("numeric(10, 2)", "shop.size[]"): the pipeline's author writes it, who may run code anyway.
    type_ = sql.SQL(column.type)
    return sql.SQL("{} {}{}").format(sql.Identifier(column.name), type_, sql.SQL(" NOT NULL" if column.not_null else ""))


def _check_names(table: Table) -> None:
    for name in (table.schema, table.relation, *sent_columns(table)):
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
            raise TargetRefused(f"table {table.name}: PostgreSQL cannot keep the name {name!r}; names have 1 to {MAX_NAME_BYTES} bytes")


def _check_relation(table: Table, relation: Relation) -> None:
    if relation.kind not in ("r", "p"):
        what = KINDS.get(relation.kind, f"a relation of kind {relation.kind!r}")
        raise TargetRefused(f"{table.name} is {what}; rows go into permanent ordinary or partitioned tables: load into another name")
    if relation.persistence != "p":
        what = PERSISTENCES[relation.persistence]
        raise TargetRefused(f"{table.name} is {what}; make it permanent (ALTER TABLE .. SET LOGGED), or load into another name")
    if relation.refused_parts:
        parts = ", ".join(relation.refused_parts)
        raise TargetRefused(f"{table.name} has partitions that are foreign, unlogged or temporary: {parts}; detach them first")
    if relation.has_row_security:
        raise TargetRefused(f"{table.name} has row-level security, under which COPY does not work; use a role with BYPASSRLS")
    if not relation.may_insert:
        raise ConfigError(f"no right to INSERT into {table.name}: grant it to the database role")
    if table.on_conflict != "error" and not relation.may_read_and_update:
        raise ConfigError(f"no right to SELECT and UPDATE {table.name}, as on_conflict={table.on_conflict!r} needs: grant both")


def _declared_columns(conn: Connection, table: Table, number: int) -> list[CatalogColumn]:
    """The pipeline's columns as the server understands their types: read back from a table that never stays."""
    name = sql.Identifier("pg_temp", f"protheon_declared_{number}")
    columns = sql.SQL(", ").join(map(_column, _all_columns(table)))
    conn.execute(sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(name, columns))
    row = conn.execute("SELECT %s::regclass::oid::bigint", (name.as_string(conn),)).fetchone()
    assert row is not None  # a cast of a constant
    declared = read_columns(conn, row[0])
    conn.execute(sql.SQL("DROP TABLE {}").format(name))
    return declared


def _check_columns(table: Table, declared: Sequence[CatalogColumn], found: Sequence[CatalogColumn]) -> None:
    stored = {column.name: column for column in found}
    names = {column.name for column in declared}
    problems = []
    for column in declared:
        there = stored.get(column.name)
        if there is None:
            problems.append(f"it has no column {column.name!r} ({column.type})")
        elif there.type != column.type and there.base_type != column.type:
            problems.append(f"column {column.name!r} is {there.type}, the pipeline's is {column.type}")
        elif there.generated:
            problems.append(f"column {column.name!r} is generated and cannot be written")
        elif there.identity == "a":
            problems.append(f"column {column.name!r} is GENERATED ALWAYS AS IDENTITY; make it GENERATED BY DEFAULT")
        if there is not None and column.name in table.primary_key and table.on_conflict != "error" and not there.not_null:
            problems.append(f"key column {column.name!r} may be null, and nulls never conflict; make it NOT NULL")
    problems += [
        f"column {column.name!r} is NOT NULL without a default, and the pipeline does not fill it"
        for column in found
        if column.name not in names and column.not_null and not (column.has_default or column.identity or column.generated)
    ]
    if problems:
        raise TargetRefused(f"table {table.name} exists and differs: {'; '.join(problems)}. Alter it, or load into another name")


def _check_sums(target: Target) -> None:
    if target.table.on_conflict != "add":
        return
    added = [column for column in target.columns if column.name not in (*target.table.primary_key, PROVENANCE)]
    if refused := [f"{column.name} ({column.type})" for column in added if column.is_array or column.wire_oid not in SUMMABLE_OIDS]:
        raise TargetRefused(f"table {target.table.name}: on_conflict='add' cannot add up {', '.join(refused)}")


def _check_keys(conn: Connection, table: Table, oid: int) -> None:
    indexes = read_unique_indexes(conn, oid)
    names = ", ".join(index.name for index in indexes) or "none"
    key = ", ".join(table.primary_key)
    over_key = [index for index in indexes if set(index.columns) == set(table.primary_key)]
    if table.primary_key and not any(index.can_arbitrate or table.on_conflict == "error" for index in over_key):
        raise TargetRefused(
            f"table {table.name} has no unique index on ({key}) that is valid, whole and not deferrable (its unique indexes: {names}); "
            f"ALTER TABLE {table.name} ADD PRIMARY KEY ({key})"
        )
    if table.shared and len(indexes) != 1:
        raise TargetRefused(f"shared table {table.name} needs exactly one unique index, so that chunks lock in one order; it has {names}")


def _warnings(table: Table, relation: Relation) -> list[str]:
    if not relation.triggers:
        return []
    names = ", ".join(relation.triggers)
    return [f"table {table.name} has triggers, which run for each row and may change, drop or refuse it: {names}"]
