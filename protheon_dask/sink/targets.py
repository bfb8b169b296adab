"""Target tables at submit: made where they are missing, checked where they exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from protheon_dask.errors import ConfigError, TargetRefused
from protheon_dask.pipelines.table import PROVENANCE, Column, Table
from protheon_dask.postgres import NO_TIMEOUTS, reason_of, translate
from protheon_dask.sink.catalog import (
    CatalogColumn,
    Connection,
    Relation,
    Target,
    column_list,
    describe,
    has_foreign_key,
    has_index,
    identifier_of,
    read_columns,
    read_relation,
    read_unique_indexes,
    sent_columns,
    split_name,
)

ADVISORY_CLASS, LOCK_TARGETS, LOCK_FINISH = 0x50524F, 3, 4
"""Protheon's two-integer advisory locks: for making tables, and for their indexes and foreign keys at the end of a run, which may
take hours and holds up no submit. The first key is "PRO"; 1 and 2 are the ledger's."""

LEDGER_SCHEMA: Final = "protheon"
"""Its tables are the truth about loads: no pipeline writes into them."""

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

    What only the end of a run needs (indexes, foreign keys) is tried here on empty temporary tables: hours later is too late.

    Raises:    TargetRefused: a table exists and cannot take the rows; every difference is named. ConfigError: a type or
               a right is missing. Nothing is kept then once the caller rolls back.
    Guarantee: in the caller's transaction, never commits; idempotent; two submits at once wait for each other.
    """
    try:
        conn.execute(NO_TIMEOUTS)
        conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_TARGETS))
        warnings: list[str] = []
        for number, table in enumerate(tables):
            _check_names(table)
            relation = read_relation(conn, table.schema, table.relation)
            if relation is None:
                create_table(conn, table)
            else:
                _check_relation(conn, table, relation)
                _check_columns(table, _declared_columns(conn, table, number), read_columns(conn, relation.oid))
                _check_keys(conn, table, relation)
                warnings += _warnings(table, relation)
        described = describe(conn, tables)  # refuses types that cannot be sent
        for target in described:
            _check_sums(target)
        _check_foreign_keys(conn, described)
        for table in tables:
            _check_finish(conn, table)
    except psycopg.errors.InsufficientPrivilege as exc:
        raise ConfigError(f"the database role {conn.info.user!r} lacks a right: {reason_of(exc)}; grant it, or use another role") from exc
    except psycopg.ProgrammingError as exc:  # a type that is not there, a name that is PostgreSQL's own
        raise ConfigError(f"a table of the pipeline cannot be made: {reason_of(exc)}") from exc
    except psycopg.Error as exc:
        raise translate(exc) from exc
    return warnings


def without_rows(conn: Connection, tables: Sequence[Table]) -> dict[str, str]:
    """Which of these tables have no row, each with why: ``gone`` or ``empty``; one that we may not read is left out."""
    found = {}
    for table in tables:
        relation = read_relation(conn, table.schema, table.relation)
        if relation is None:
            found[table.name] = "gone"
        elif relation.kind in ("r", "p") and relation.may_use_schema and relation.may_read:
            query = sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(table.schema, table.relation))
            if conn.execute(query).fetchone() is None:
                found[table.name] = "empty"
    return found


def create_path_view(conn: Connection, table: Table) -> list[str]:
    """Make the view ``<table>_with_path`` of a table that has a load_id; return notices.

    The path is that of the run that first asked for the load. Idempotent; never commits. A role that may not make it
    loads without it: it is a convenience, and one that is there already is left as it is.
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
        with conn.transaction():
            conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as exc:
        told = f"the view {table.schema}.{view}, which adds the paths, could not be made: {reason_of(exc)}"
        return [told] if found is None else []
    except psycopg.Error as exc:
        raise translate(exc) from exc
    return []


PATH_VIEW: Final = """
CREATE OR REPLACE VIEW {view} AS
SELECT loaded.*, found.path
  FROM {table} AS loaded
  LEFT JOIN (SELECT DISTINCT ON (load_id) load_id, path FROM protheon.run_load ORDER BY load_id, run_id, path) AS found
    ON found.load_id = loaded.load_id
"""


def create_table(conn: Connection, table: Table) -> None:
    """Make the table, and its schema if that is missing. Raises psycopg.Error."""
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
    if table.schema == LEDGER_SCHEMA:
        raise TargetRefused(f"table {table.name}: the schema {LEDGER_SCHEMA} is Protheon's own ledger: load into another one")
    for what, name in (("schema", table.schema), ("table", table.relation), *(("column", name) for name in sent_columns(table))):
        n_bytes = len(name.encode("utf-8", "surrogatepass"))
        if not 0 < n_bytes <= MAX_NAME_BYTES:
            raise TargetRefused(
                f"table {table.name}: PostgreSQL cannot keep the name of {what} {name!r}, of {n_bytes} bytes: "
                f"names have 1 to {MAX_NAME_BYTES} bytes"
            )
        if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise TargetRefused(f"table {table.name}: PostgreSQL cannot keep the name of {what} {name!r}: it is no text")
    if taken := [column.name for column in table.columns if column.name.startswith("_protheon_")]:
        raise TargetRefused(f"table {table.name}: column {taken[0]!r}: names that begin with _protheon_ are Protheon's own")


def _check_relation(conn: Connection, table: Table, relation: Relation) -> None:
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
    if relation.rules and table.on_conflict != "error":
        rules = ", ".join(relation.rules)
        raise TargetRefused(f"{table.name} has rules, with which PostgreSQL allows no ON CONFLICT: {rules}; drop them, or use triggers")
    _check_rights(conn, table, relation)


def _check_rights(conn: Connection, table: Table, relation: Relation) -> None:
    needs = {"INSERT": relation.may_insert}
    if table.on_conflict != "error":
        needs["SELECT"] = relation.may_read
    if table.on_conflict in ("update", "add"):
        needs["UPDATE"] = relation.may_update
    role = conn.info.user
    if not relation.may_use_schema:
        schema = sql.Identifier(table.schema).as_string(conn)
        raise ConfigError(f"the database role {role!r} may not use the schema of {table.name}: GRANT USAGE ON SCHEMA {schema} to it")
    if missing := [right for right, granted in needs.items() if not granted]:
        name = sql.Identifier(table.schema, table.relation).as_string(conn)
        rights = " and ".join(missing)
        raise ConfigError(
            f"no right to {rights} on {table.name}, as on_conflict={table.on_conflict!r} needs: GRANT {', '.join(missing)} ON {name} "
            f"to the database role {role!r}"
        )


def _check_finish(conn: Connection, table: Table) -> None:
    """Refuse indexes and foreign keys that could not be made at the run's end, whatever its rows are.

    The server itself is asked, on empty temporary tables: no lock is taken on a table in which others may be loading.
    """
    name = sql.Identifier(table.schema, table.relation)
    indexes = [index for index in table.indexes if not has_index(conn, name, index)]
    keys = [
        key
        for key in table.foreign_keys
        if read_relation(conn, *split_name(key.other_table)) is None or not has_foreign_key(conn, name, key)
    ]
    if not indexes and not keys:
        return
    relation = read_relation(conn, table.schema, table.relation)
    if relation is not None and not relation.may_alter:
        missing = [f"index ({', '.join(index)})" for index in indexes] + [f"foreign key ({', '.join(key.columns)})" for key in keys]
        raise ConfigError(
            f"the database role {conn.info.user!r} does not own {table.name} and cannot make its {', '.join(missing)} at the end of a run: "
            "have the owner make it now, or take it out of the pipeline"
        )
    trial, other = sql.Identifier("pg_temp", "protheon_trial"), sql.Identifier("pg_temp", "protheon_trial_other")
    like = sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING INDEXES) ON COMMIT DROP")
    what = ""
    try:
        with conn.transaction() as tried:
            conn.execute(like.format(trial, name))
            for index in indexes:
                what = f"index ({', '.join(index)})"
                conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(trial, column_list(index)))
            for key in keys:
                what = f"foreign key ({', '.join(key.columns)}) to {key.other_table} ({', '.join(key.other_columns)})"
                if read_relation(conn, *split_name(key.other_table)) is None:
                    raise TargetRefused(f"table {table.name}: its {what} cannot be made: there is no table {key.other_table}")
                conn.execute(like.format(other, identifier_of(key.other_table)))
                statement = sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({})")
                conn.execute(statement.format(trial, column_list(key.columns), other, column_list(key.other_columns)))
                conn.execute(sql.SQL("DROP TABLE {} CASCADE").format(other))
            raise psycopg.Rollback(tried)
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.ProgrammingError as exc:
        reason = reason_of(exc).replace("protheon_trial_other", "its table").replace("protheon_trial", table.relation)
        raise TargetRefused(f"table {table.name}: its {what} cannot be made: {reason}") from exc


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


def _check_foreign_keys(conn: Connection, targets: Sequence[Target]) -> None:
    """Refuse a foreign key that is checked at once, to a table of the pipeline whose rows come later: each new line would be refused."""
    turns = {target.oid: (1, 0, target.table.name) if target.table.shared else (0, turn, "") for turn, target in enumerate(targets)}
    names = {target.oid: target.table.name for target in targets}
    for target in targets:
        for key in target.constraints:
            if not key.is_deferrable and key.refers_to in turns and turns[key.refers_to] > turns[target.oid]:
                table = target.identifier.as_string(conn)
                raise TargetRefused(
                    f"table {target.table.name} has the foreign key {key.name} to {names[key.refers_to]}, whose rows come after its own: "
                    f"ALTER TABLE {table} ALTER CONSTRAINT {sql.Identifier(key.name).as_string(conn)} DEFERRABLE"
                )


def _check_keys(conn: Connection, table: Table, relation: Relation) -> None:
    indexes = read_unique_indexes(conn, relation.oid)
    names = ", ".join(index.name for index in indexes) or "none"
    key = ", ".join(table.primary_key)
    over_key = [index for index in indexes if set(index.columns) == set(table.primary_key)]
    name = sql.Identifier(table.schema, table.relation).as_string(conn)
    if table.primary_key and not any(index.can_arbitrate or table.on_conflict == "error" for index in over_key):
        raise TargetRefused(
            f"table {table.name} has no unique index on ({key}) that is valid, whole and not deferrable (its unique indexes: {names}); "
            f"ALTER TABLE {name} ADD PRIMARY KEY ({column_list(table.primary_key).as_string(conn)})"
        )
    others = (*relation.exclusions, *relation.part_keys)
    if table.shared and (len(indexes) != 1 or others):
        has = ", ".join([*(index.name for index in indexes), *others]) or "none"
        raise TargetRefused(
            f"shared table {table.name} needs exactly one unique index and no exclusion constraint, so that chunks lock in one order; "
            f"it has {has}"
        )


def _warnings(table: Table, relation: Relation) -> list[str]:
    warnings = []
    if relation.triggers:
        names = ", ".join(relation.triggers)
        warnings.append(
            f"table {table.name} has triggers, which run for each row and may change, drop or refuse it: {names}; "
            "a row that one drops counts as ignored"
        )
    if relation.rules:
        warnings.append(f"table {table.name} has rules, which COPY does not follow: {', '.join(relation.rules)}")
    return warnings
