"""What the database says about a target table: one frozen value, read once and cached by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from protheon_dask.errors import TargetRefused
from protheon_dask.pipelines.table import PROVENANCE, ForeignKey, Table
from protheon_dask.sink.encode import PLAIN_OIDS, TEXT, ArrayOf, Plain, Wire

Connection = psycopg.Connection[Any]

# Params: schema text, relation text. Returns the fields of Relation, or no row.
RELATION = """
WITH found AS (
    SELECT c.*, n.oid AS schema_oid
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s
), part AS (
    SELECT p.oid, p.relkind, p.relpersistence
      FROM found, pg_catalog.pg_partition_tree(found.oid) AS tree JOIN pg_catalog.pg_class AS p ON p.oid = tree.relid
     WHERE p.oid <> found.oid
)
SELECT c.oid::bigint, c.relkind::text, c.relpersistence::text,
       row_security_active(c.oid),
       has_schema_privilege(c.schema_oid, 'USAGE'),
       has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'UPDATE'),
       pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT t.tgname || CASE WHEN t.tgrelid <> c.oid THEN ' of ' || t.tgrelid::regclass ELSE '' END
               FROM pg_catalog.pg_trigger AS t
              WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 20 <> 0  -- on INSERT or UPDATE
                AND (t.tgrelid = c.oid OR (t.tgparentid = 0 AND t.tgrelid IN (SELECT oid FROM part)))
              ORDER BY t.tgrelid <> c.oid, 1),
       ARRAY(SELECT r.rulename::text FROM pg_catalog.pg_rewrite AS r
              WHERE r.ev_class = c.oid AND c.relkind IN ('r', 'p') AND r.ev_enabled <> 'D' AND r.ev_type IN ('2', '3') ORDER BY 1),
       ARRAY(SELECT x.conname::text FROM pg_catalog.pg_constraint AS x WHERE x.conrelid = c.oid AND x.contype = 'x' ORDER BY 1),
       ARRAY(SELECT part.oid::regclass::text FROM part WHERE part.relkind NOT IN ('r', 'p') OR part.relpersistence <> 'p' ORDER BY 1),
       ARRAY(SELECT i.indexrelid::regclass::text FROM part JOIN pg_catalog.pg_index AS i ON i.indrelid = part.oid
              WHERE (i.indisunique OR i.indisexclusion)
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = i.indexrelid) ORDER BY 1)
  FROM found AS c
"""

# Params: relation oid. Returns the columns in their order.
COLUMNS = """
SELECT a.attname::text, a.atttypid::bigint, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), a.atthasdef OR t.typdefault IS NOT NULL,
       a.attidentity::text, a.attgenerated::text,
       CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END, t.typbasetype::bigint
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

# Params: relation oid. Returns the unique indexes; can_arbitrate: ON CONFLICT may name its columns.
UNIQUE_INDEXES = """
SELECT i.indexrelid::regclass::text,
       i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid AND NOT i.indisexclusion AS can_arbitrate,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ordinal)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.ordinal <= i.indnkeyatts)
  FROM pg_catalog.pg_index AS i
 WHERE i.indrelid = %s AND i.indisunique
 ORDER BY 1
"""

# Params: relation regclass text, columns text[]. A row: there is a whole, valid btree that begins with these columns.
HAS_INDEX = """
SELECT FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
 WHERE i.indrelid = %s::regclass AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts >= cardinality(%s::text[])
   AND %s::text[] = ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ordinal)
                            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                           WHERE k.ordinal <= cardinality(%s::text[]) ORDER BY k.ordinal)
"""

# Params: relation, columns text[], other relation, other columns text[]. A row: this foreign key is there.
HAS_FOREIGN_KEY = """
SELECT FROM pg_catalog.pg_constraint AS c
 WHERE c.contype = 'f' AND c.conrelid = %s::regclass
   AND %s::text[] = ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, ordinal)
                            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum ORDER BY k.ordinal)
   AND c.confrelid = %s::regclass
   AND %s::text[] = ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, ordinal)
                            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum ORDER BY k.ordinal)
"""

# Params: relation oid. Returns the fields of Constraint, of the table's own that can be deferred or are foreign keys.
CONSTRAINTS = """
SELECT n.nspname::text, c.conname::text, c.condeferrable, CASE WHEN c.contype = 'f' THEN c.confrelid::bigint ELSE 0 END
  FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
 WHERE c.conrelid = %s AND (c.condeferrable OR c.contype = 'f') AND c.conparentid = 0
 ORDER BY 1, 2
"""

# Params: schemas text[], relations text[], side by side. Returns for each that exists its number (from 1), its oid, names and types of
# its columns, and names of the constraints that CONSTRAINTS gives, apart by whether they can be deferred.
AS_IT_IS = """
SELECT wanted.no, c.oid::bigint,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT a.atttypid::bigint FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT x.conname::text FROM pg_catalog.pg_constraint AS x WHERE x.conrelid = c.oid AND x.conparentid = 0 AND x.condeferrable),
       ARRAY(SELECT x.conname::text FROM pg_catalog.pg_constraint AS x
              WHERE x.conrelid = c.oid AND x.conparentid = 0 AND x.contype = 'f' AND NOT x.condeferrable)
  FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS wanted (schema, relation, no)
  JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.schema
  JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.relation
"""

# Params: relation oid, twice. Returns the names of triggers that may drop rows that are to be inserted into it, or into a partition.
DROPPING_TRIGGERS = """
SELECT DISTINCT t.tgname::text FROM pg_catalog.pg_trigger AS t
 WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 7 = 7  -- FOR EACH ROW, BEFORE, INSERT
   AND (t.tgrelid = %s::bigint OR t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%s::bigint::regclass)))
 ORDER BY 1
"""

# Params: type oids bigint[]. Returns how each travels in binary; text_like: its receive function is that of text.
TYPES = """
SELECT t.oid::bigint, t.typtype::text, t.typbasetype::bigint, t.typelem::bigint, t.typcategory = 'A' AND t.typlen = -1,
       t.typtype = 'e' OR t.oid = 'pg_catalog.bpchar'::regtype
         OR r.prosrc IN (SELECT f.prosrc FROM pg_catalog.pg_proc AS f WHERE f.oid = 'pg_catalog.textrecv(internal)'::regprocedure)
  FROM pg_catalog.pg_type AS t
  LEFT JOIN pg_catalog.pg_proc AS r ON r.oid = t.typreceive
 WHERE t.oid = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation that a target's name means."""

    oid: int
    kind: str  # pg_class.relkind
    persistence: str  # pg_class.relpersistence
    has_row_security: bool  # for the current role, as all rights below
    may_use_schema: bool
    may_insert: bool
    may_read: bool
    may_update: bool
    may_alter: bool  # a member of the owning role
    triggers: tuple[str, ...]  # on INSERT or UPDATE, of partitions too; enabled, not the system's own
    rules: tuple[str, ...]  # on INSERT or UPDATE
    exclusions: tuple[str, ...]  # exclusion constraints
    refused_parts: tuple[str, ...]  # partitions that are foreign, unlogged or temporary
    part_keys: tuple[str, ...]  # unique indexes and exclusions that only a partition has


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """One column as it is in the database."""

    name: str
    oid: int  # of its type
    type: str  # as the server writes it
    not_null: bool
    has_default: bool  # of its own, or of its domain
    identity: str  # '', 'a' always, 'd' by default
    generated: str  # '', 's' stored, 'v' virtual
    base_type: str | None  # of a domain
    base_oid: int  # of a domain; else 0


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """One unique index; can_arbitrate: not partial, not over expressions, not deferrable, valid."""

    name: str
    can_arbitrate: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint that can be deferred, or a foreign key."""

    schema: str
    name: str
    is_deferrable: bool
    refers_to: int  # oid of a foreign key's other table; else 0

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """One column that the sink fills."""

    name: str
    oid: int  # of its type, exact
    wire_oid: int  # of the built-in type in whose binary form it, or an element of it, travels
    type: str
    not_null: bool
    is_array: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A table of a pipeline as it is in the database.

    columns: those of the pipeline in its order, then the provenance column where the table has one.
    foreign_identity: identity columns that the pipeline does not fill (the staging table must not insist on them).
    values_are_exact: Pipeline.values_are_exact: no value is looked at before it is sent.
    """

    table: Table
    oid: int
    is_partitioned: bool
    columns: tuple[TargetColumn, ...]
    wires: Mapping[int, Wire]  # how each type travels, elements before their arrays
    foreign_identity: tuple[str, ...]
    constraints: tuple[Constraint, ...]
    values_are_exact: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self.table.relation)


def describe(conn: Connection, tables: Sequence[Table], *, values_are_exact: bool = False) -> tuple[Target, ...]:
    """Read what binary COPY and the merge must know of each table, in the order given.

    Raises:    TargetRefused: a table or a column is missing, or a column's type is another or cannot be sent.
    Guarantee: reads the catalog only; the values stay right until somebody alters a table.
    """
    return tuple(_describe(conn, table, values_are_exact) for table in tables)


def _describe(conn: Connection, table: Table, values_are_exact: bool) -> Target:
    relation = read_relation(conn, table.schema, table.relation)
    if relation is None:
        raise TargetRefused(f"table {table.name} does not exist: it is made when a run is submitted; submit the run again")
    found = {column.name: column for column in read_columns(conn, relation.oid)}
    names = sent_columns(table)
    if missing := [name for name in names if name not in found]:
        raise TargetRefused(f"table {table.name} has lost column {', '.join(map(repr, missing))} since the run was submitted")
    declared = conn.execute("SELECT to_regtype(t)::oid::bigint FROM unnest(%s::text[]) AS t", ([column.type for column in table.columns],))
    for column, (oid,) in zip(table.columns, declared, strict=True):
        there = found[column.name]
        if oid not in (None, there.oid, there.base_oid):  # None: a word of CREATE TABLE only, such as serial
            raise TargetRefused(
                f"table {table.name}: column {column.name!r} is {there.type}, the pipeline's is {column.type}: alter it back, "
                "or cancel the run and load into another table"
            )
    wires = read_wires(conn, [found[name].oid for name in names])
    if refused := [f"{name} {found[name].type}{_instead_of(found[name].type)}" for name in names if found[name].oid not in wires]:
        raise TargetRefused(
            f"table {table.name}: no way to send {', '.join(refused)}; "
            "use text, jsonb, another built-in scalar type, an enum, a domain over one, or an array of one"
        )
    sent = [found[name] for name in names]
    columns = tuple(
        TargetColumn(c.name, c.oid, wire_oid(wires, c.oid), c.type, c.not_null, is_array=isinstance(wires[c.oid], ArrayOf)) for c in sent
    )
    foreign_identity = tuple(c.name for c in found.values() if c.identity and c.name not in names)
    constraints = tuple(Constraint(*row) for row in conn.execute(CONSTRAINTS, (relation.oid,)))
    return Target(table, relation.oid, relation.kind == "p", columns, wires, foreign_identity, constraints, values_are_exact)


INSTEAD = {
    "money": "numeric",
    "xml": "text",
    "name": "text",
    "hstore": "jsonb",
    "point": "two columns of double precision",
    "tsvector": "text, and an index over to_tsvector(..)",
}
"""What a table may have instead of a type that cannot be sent."""


def _instead_of(type_: str) -> str:
    name = type_.removesuffix("[]").split("(")[0].rpartition(".")[2]
    better = INSTEAD.get(name, "two columns, for its bounds" if name.endswith("range") else None)
    return f" (instead: {better})" if better else ""


def altered(conn: Connection, targets: Sequence[Target]) -> list[str]:
    """Names of targets that are not as they were described: dropped, made anew, with a column of another type or other constraints.

    A foreign key that another run makes at its end is such a constraint: it must be deferred before rows come in their order.
    Guarantee: reads the catalog only, in one round trip. A table into which this transaction has written cannot change after that.
    """
    schemas, relations = [t.table.schema for t in targets], [t.table.relation for t in targets]
    found = {no: row for no, *row in conn.execute(AS_IT_IS, (schemas, relations))}
    return [target.table.name for no, target in enumerate(targets, start=1) if no not in found or not _is_as(target, *found[no])]


def _is_as(target: Target, oid: int, names: list[str], types: list[int], deferrable: list[str], at_once: list[str]) -> bool:
    type_of = dict(zip(names, types, strict=True))
    described: dict[bool, set[str]] = {True: set(), False: set()}
    for constraint in target.constraints:
        described[constraint.is_deferrable].add(constraint.name)
    return (
        oid == target.oid
        and all(type_of.get(column.name) == column.oid for column in target.columns)
        and described == {True: set(deferrable), False: set(at_once)}
    )


def dropping_triggers(conn: Connection, target: Target) -> list[str]:
    """Names of triggers that may make rows of this table vanish without a word (they return NULL)."""
    return [name for (name,) in conn.execute(DROPPING_TRIGGERS, (target.oid, target.oid))]


def has_index(conn: Connection, table: sql.Composable, columns: Sequence[str]) -> bool:
    """Tell whether there is a valid btree over the whole table that begins with these columns."""
    return conn.execute(HAS_INDEX, (table.as_string(conn), *[list(columns)] * 3)).fetchone() is not None


def has_foreign_key(conn: Connection, table: sql.Identifier, key: ForeignKey) -> bool:
    params = (table.as_string(conn), list(key.columns), identifier_of(key.other_table).as_string(conn), list(key.other_columns))
    return conn.execute(HAS_FOREIGN_KEY, params).fetchone() is not None


def split_name(name: str) -> tuple[str, str]:
    """Schema and relation of a name as Table reads it: ``schema.table``, or a table of ``public``."""
    schema, dot, relation = name.partition(".")
    return (schema, relation) if dot else ("public", name)


def identifier_of(name: str) -> sql.Identifier:
    """A table by its name as Table reads it."""
    return sql.Identifier(*split_name(name))


def column_list(names: Iterable[str]) -> sql.Composed:
    """Names of columns with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def sent_columns(table: Table) -> list[str]:
    """Names of the columns that the sink fills, in the order in which it sends them."""
    return [column.name for column in table.columns] + ([PROVENANCE] if table.provenance else [])


def read_relation(conn: Connection, schema: str, relation: str) -> Relation | None:
    row = conn.execute(RELATION, (schema, relation)).fetchone()
    if row is None:
        return None
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    return Relation(*values)


def read_columns(conn: Connection, oid: int) -> list[CatalogColumn]:
    return [CatalogColumn(*row) for row in conn.execute(COLUMNS, (oid,))]


def read_unique_indexes(conn: Connection, oid: int) -> list[UniqueIndex]:
    return [UniqueIndex(name, can_arbitrate, tuple(columns)) for name, can_arbitrate, columns in conn.execute(UNIQUE_INDEXES, (oid,))]


def read_wires(conn: Connection, oids: Iterable[int]) -> dict[int, Wire]:
    """Tell how types travel in binary; a type that cannot be sent is left out."""
    rows: dict[int, tuple[Any, ...]] = {}
    wanted = set(oids)
    while unread := wanted - rows.keys():
        rows |= {row[0]: row for row in conn.execute(TYPES, (list(unread),))}
        wanted |= {oid for row in rows.values() for oid in (row[2], row[3] if row[4] else 0) if oid}
    wires: dict[int, Wire] = {}

    def resolve(oid: int) -> Wire | None:
        _, _, base_oid, element_oid, is_array, is_text_like = rows[oid]
        wire: Wire | None
        if base_oid:
            wire = resolve(base_oid)
        elif is_array:
            wire = ArrayOf(element_oid) if isinstance(resolve(element_oid), Plain) else None
        elif is_text_like:
            wire = Plain(TEXT)
        else:
            wire = Plain(oid) if oid in PLAIN_OIDS else None
        if wire is not None:
            wires[oid] = wire
        return wire

    for oid in oids:
        resolve(oid)
    return wires


def wire_oid(wires: Mapping[int, Wire], oid: int) -> int:
    """The built-in type in whose binary form a type, or the elements of an array, travel."""
    match wires[oid]:
        case Plain(base_oid):
            return base_oid
        case ArrayOf(element_oid):
            return wire_oid(wires, element_oid)
