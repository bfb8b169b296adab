"""What the database says about a target table: one frozen value, read once and cached by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from protheon_dask.errors import TargetRefused
from protheon_dask.pipelines.table import PROVENANCE, Table
from protheon_dask.sink.encode import PLAIN_OIDS, TEXT, ArrayOf, Plain, Wire

Connection = psycopg.Connection[Any]

# Params: schema text, relation text. Returns one row or none; refused_parts names partitions that are no permanent tables.
RELATION = """
SELECT c.oid::bigint, c.relkind::text, c.relpersistence::text,
       row_security_active(c.oid),
       has_table_privilege(c.oid, 'INSERT'),
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'UPDATE'),
       ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger AS t
              WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 1),
       ARRAY(SELECT part.relid::regclass::text FROM pg_catalog.pg_partition_tree(c.oid) AS part
               JOIN pg_catalog.pg_class AS p ON p.oid = part.relid
              WHERE p.relkind NOT IN ('r', 'p') OR p.relpersistence <> 'p' ORDER BY 1)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""

# Params: relation oid. Returns the columns in their order.
COLUMNS = """
SELECT a.attname::text, a.atttypid::bigint, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), a.atthasdef, a.attidentity::text, a.attgenerated::text,
       CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

# Params: relation oid. Returns the unique indexes; can_arbitrate: ON CONFLICT may name its columns.
UNIQUE_INDEXES = """
SELECT i.indexrelid::regclass::text,
       i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid AS can_arbitrate,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ordinal)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.ordinal <= i.indnkeyatts)
  FROM pg_catalog.pg_index AS i
 WHERE i.indrelid = %s AND i.indisunique
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
    has_row_security: bool  # for the current role
    may_insert: bool
    may_read_and_update: bool
    triggers: tuple[str, ...]  # enabled, not the system's own
    refused_parts: tuple[str, ...]  # partitions that are foreign, unlogged or temporary


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """One column as it is in the database."""

    name: str
    oid: int  # of its type
    typmod: int
    type: str  # as the server writes it
    not_null: bool
    has_default: bool
    identity: str  # '', 'a' always, 'd' by default
    generated: str  # '', 's' stored, 'v' virtual
    base_type: str | None  # of a domain


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """One unique index; can_arbitrate: not partial, not over expressions, not deferrable, valid."""

    name: str
    can_arbitrate: bool
    columns: tuple[str, ...]


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
    values_are_exact: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self.table.relation)


def describe(conn: Connection, tables: Sequence[Table], *, values_are_exact: bool = False) -> tuple[Target, ...]:
    """Read what binary COPY and the merge must know of each table, in the order given.

    Raises:    TargetRefused: a table or a column is missing, or a column's type cannot be sent.
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
    wires = read_wires(conn, [found[name].oid for name in names])
    if refused := [f"{name} {found[name].type}" for name in names if found[name].oid not in wires]:
        raise TargetRefused(
            f"table {table.name}: no way to send {', '.join(refused)}; "
            "use text, jsonb, another built-in scalar type, an enum, a domain over one, or an array of one"
        )
    sent = [found[name] for name in names]
    columns = tuple(
        TargetColumn(c.name, c.oid, wire_oid(wires, c.oid), c.type, c.not_null, is_array=isinstance(wires[c.oid], ArrayOf)) for c in sent
    )
    foreign_identity = tuple(c.name for c in found.values() if c.identity and c.name not in names)
    return Target(table, relation.oid, relation.kind == "p", columns, wires, foreign_identity, values_are_exact)


def sent_columns(table: Table) -> list[str]:
    """Names of the columns that the sink fills, in the order in which it sends them."""
    return [column.name for column in table.columns] + ([PROVENANCE] if table.provenance else [])


def read_relation(conn: Connection, schema: str, relation: str) -> Relation | None:
    row = conn.execute(RELATION, (schema, relation)).fetchone()
    if row is None:
        return None
    oid, kind, persistence, has_row_security, may_insert, may_read_and_update, triggers, refused_parts = row
    return Relation(oid, kind, persistence, has_row_security, may_insert, may_read_and_update, tuple(triggers), tuple(refused_parts))


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
