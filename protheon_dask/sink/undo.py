"""Deleting the rows of loads again, by what they say of where they came from: what stands against it, and how it is done in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.table import Table
from protheon_dask.postgres import NO_TIMEOUTS
from protheon_dask.sink.catalog import Connection, has_index, read_columns, read_relation
from protheon_dask.words import counted

PIECE_PAGES: Final = 4_096
"""Pages that one transaction looks through, 32 MiB: seconds at most, and a vacuum can follow."""

PIECE_ROWS: Final = 50_000
"""Rows that one transaction deletes where an index finds them."""

LOCK_WAIT: Final = "60s"
"""How long a row that somebody else holds is waited for, in one piece."""

UNINDEXED_BYTES: Final = 1 << 20
"""Of a table that refers to deleted rows and has no index for it: PostgreSQL reads a larger one for each row that is deleted
(measured: 33 s for 5,000 rows to which a table of 100,000 rows refers)."""

ENOUGH_ROWS: Final = 1_000
"""References that are counted, at most, to say how many there are."""

# Params: relation oid. Returns the oids of a table and of all that is below it: partitions, and tables that inherit from it.
TREE = """
WITH RECURSIVE tree AS (
    SELECT %s::bigint AS oid UNION SELECT i.inhrelid::bigint FROM tree JOIN pg_catalog.pg_inherits AS i ON i.inhparent = tree.oid
)
SELECT oid FROM tree
"""

# Params: the oids of a tree. Returns those of its tables that hold rows; (schema, relation).
PARTS = """
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.oid = ANY(%s::bigint[])
 ORDER BY c.oid
"""

# Params: the oids of a tree. Returns of each table (its name as the server writes it, is foreign, has row security, may delete), since
# rows are deleted from each by itself; and the enabled triggers on DELETE.
RIGHTS = """
SELECT c.oid::regclass::text, c.relkind = 'f', row_security_active(c.oid),
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE')
  FROM pg_catalog.pg_class AS c WHERE c.oid = ANY(%s::bigint[]) ORDER BY c.oid
"""
TRIGGERS = """
SELECT DISTINCT t.tgname::text FROM pg_catalog.pg_trigger AS t
 WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 8 <> 0 AND t.tgrelid = ANY(%s::bigint[])
 ORDER BY 1
"""

# Params: the oids of a tree, the oid of its root. Returns the foreign keys that refer to it or to what it is a partition of.
REFERENCES = """
SELECT c.conname::text, c.conrelid::bigint, c.conrelid::regclass::text, c.confrelid::regclass::text, c.confdeltype::text,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, ordinal)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum ORDER BY k.ordinal),
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, ordinal)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum ORDER BY k.ordinal)
  FROM pg_catalog.pg_constraint AS c
 WHERE c.contype = 'f' AND c.conparentid = 0
   AND (c.confrelid = ANY(%s::bigint[])
        OR c.confrelid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(%s::bigint::regclass) AS above (relid)))
 ORDER BY 1, 2
"""

# Params: relation oid, three times. Returns the bytes of a table and its partitions.
SIZE = """
SELECT pg_relation_size(%s::oid)
       + coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_catalog.pg_partition_tree(%s::oid::regclass) WHERE relid <> %s::oid), 0)
"""

IN_PAGES = """
WITH gone AS (
    DELETE FROM ONLY {part} WHERE ctid >= {first}::tid AND ctid < {last}::tid AND {marker} = ANY({ids}::bigint[]) RETURNING {marker}
)
SELECT {marker}, count(*) FROM gone GROUP BY 1
"""
BY_INDEX = """
WITH gone AS (
    DELETE FROM ONLY {part}
     WHERE ctid = ANY(ARRAY(SELECT ctid FROM ONLY {part} WHERE {marker} = ANY({ids}::bigint[]) LIMIT {n})) RETURNING {marker}
)
SELECT {marker}, count(*) FROM gone GROUP BY 1
"""
AT_ONCE = """
WITH gone AS (DELETE FROM {part} WHERE {marker} = ANY({ids}::bigint[]) RETURNING {marker})
SELECT {marker}, count(*) FROM gone GROUP BY 1
"""

KEEPS_ROWS: Final = ("a", "r")
"""pg_constraint.confdeltype: NO ACTION and RESTRICT; the others delete or change the rows that refer to a deleted one."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """Rows of one table that are to be deleted: those whose column marker has one of these ids."""

    table: Table
    oid: int
    marker: str
    ids: tuple[int, ...]
    tree: frozenset[int]  # oids of the table, its partitions and the tables that inherit from it

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self.table.relation)


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key by which rows refer to a doomed table's."""

    name: str
    child_oid: int
    child: str  # as the server writes it
    parent: str
    keeps_rows: bool
    columns: tuple[str, ...]
    other_columns: tuple[str, ...]


def find_doomed(conn: Connection, table: Table, marker: str, ids: Iterable[int]) -> Doomed | str | None:
    """What is to be deleted of a table; None: it is not there any more; a text: why its rows cannot be told from others."""
    relation = read_relation(conn, table.schema, table.relation)
    if relation is None:
        return None
    if marker not in {column.name for column in read_columns(conn, relation.oid)}:
        return f"table {table.name} has lost its column {marker!r}, which says where a row came from"
    tree = frozenset(row[0] for row in conn.execute(TREE, (relation.oid,)))
    return Doomed(table, relation.oid, marker, tuple(ids), tree)


def references_to(conn: Connection, doomed: Doomed) -> list[Reference]:
    found = []
    for name, child_oid, child, parent, action, columns, others in conn.execute(REFERENCES, (list(doomed.tree), doomed.oid)):
        found.append(Reference(name, child_oid, child, parent, action in KEEPS_ROWS, tuple(columns), tuple(others)))
    return found


def obstacles(conn: Connection, doomed: Sequence[Doomed]) -> list[str]:
    """Why these rows cannot be deleted without harm to others: rights, triggers, rows elsewhere that refer to them.

    Guarantee: in the caller's transaction, whose time-outs it lifts: rows that refer to others may take long to find.
    """
    conn.execute(NO_TIMEOUTS)
    problems: list[str] = []
    owner_of = {oid: one for one in doomed for oid in one.tree}
    for one in doomed:
        name = one.table.name
        tree = sorted(one.tree)
        for part, is_foreign, has_security, may_delete in conn.execute(RIGHTS, (tree,)):
            if is_foreign:
                problems.append(f"table {part}, a part of {name}, is a foreign table: detach it first")
            if has_security:
                problems.append(f"table {part} has row-level security, which may hide rows: use a role with BYPASSRLS")
            if not may_delete:
                problems.append(f"the database role has no right to SELECT and DELETE from table {part}: grant them")
        if triggers := [row[0] for row in conn.execute(TRIGGERS, (tree,))]:
            problems.append(
                f"table {name} has triggers on DELETE, which may change other rows or keep these: {', '.join(triggers)}; disable them"
            )
        for reference in references_to(conn, one):
            child = owner_of.get(reference.child_oid)
            if (missing := _missing_index(conn, reference)) is not None:
                problems.append(missing)
            if child is None and not reference.keeps_rows:
                problems.append(
                    f"table {reference.child} refers to {name} by the foreign key {reference.name}, "
                    "which would delete or change its rows as well"
                )
            elif n_rows := _referring(conn, one, reference, child):
                n = f"{ENOUGH_ROWS:,} or more rows" if n_rows == ENOUGH_ROWS else counted(n_rows, "row")
                of, refer = ("" if child is None else " of others"), ("refers" if n_rows == 1 else "refer")
                problems.append(f"{n}{of} of table {reference.child} {refer} to its rows in {name} (foreign key {reference.name})")
    return problems


def _missing_index(conn: Connection, reference: Reference) -> str | None:
    """What to do where each deleted row would be looked for in all of a large table."""
    child = sql.SQL(reference.child)  # as the server writes it
    [(size_bytes,)] = conn.execute(SIZE, (reference.child_oid,) * 3).fetchall()
    if size_bytes <= UNINDEXED_BYTES or any(has_index(conn, child, [column]) for column in reference.columns):
        return None
    columns = sql.SQL(", ").join(map(sql.Identifier, reference.columns)).as_string(conn)
    return (
        f"table {reference.child} refers to {reference.parent} (foreign key {reference.name}) and has no index by which to find its rows: "
        f"each deletion would read all of it; CREATE INDEX ON {reference.child} ({columns})"
    )


def _referring(conn: Connection, doomed: Doomed, reference: Reference, child: Doomed | None) -> int:
    """Rows that refer to doomed ones and stay, counted up to ENOUGH_ROWS."""
    on = sql.SQL(" AND ").join(
        sql.SQL("f.{} = p.{}").format(sql.Identifier(a), sql.Identifier(b))
        for a, b in zip(reference.columns, reference.other_columns, strict=True)
    )
    stays = (
        sql.SQL("true")
        if child is None
        else sql.SQL("(f.{0} = ANY({1}::bigint[])) IS NOT TRUE").format(sql.Identifier(child.marker), sql.Literal(list(child.ids)))
    )
    statement = sql.SQL(
        "SELECT count(*) FROM (SELECT FROM {child} AS f JOIN {parent} AS p ON {on}"
        " WHERE p.{marker} = ANY({ids}::bigint[]) AND {stays} LIMIT {n}) AS r"
    ).format(
        child=sql.SQL(reference.child),  # a regclass as the server writes it: quoted where it must be
        parent=doomed.identifier,
        on=on,
        marker=sql.Identifier(doomed.marker),
        ids=sql.Literal(list(doomed.ids)),
        stays=stays,
        n=sql.Literal(ENOUGH_ROWS),
    )
    [(n_rows,)] = conn.execute(statement).fetchall()
    return int(n_rows)


@dataclass(frozen=True, slots=True)
class Order:
    """Tables in the order in which their rows are deleted: those that refer to others first."""

    doomed: tuple[Doomed, ...]
    at_once: frozenset[int]  # oids of tables that refer to themselves: their rows go in one statement
    related: frozenset[int]  # oids of tables that refer to others of these, or are referred to
    circle: tuple[str, ...]  # tables that refer to each other in a circle: nothing can be first


def ordered(conn: Connection, doomed: Sequence[Doomed]) -> Order:
    """Put tables that refer to others before those."""
    children: dict[int, set[int]] = {one.oid: set() for one in doomed}
    owner_of: Mapping[int, Doomed] = {oid: one for one in doomed for oid in one.tree}
    at_once, related = set(), set()
    for one in doomed:
        for reference in references_to(conn, one):
            child = owner_of.get(reference.child_oid)
            related |= {one.oid, child.oid} if child is not None else set()
            if child is one:
                at_once.add(one.oid)
            elif child is not None:
                children[one.oid].add(child.oid)
    left: list[Doomed] = list(doomed)
    done: list[Doomed] = []
    while free := [one for one in left if not children[one.oid] - {gone.oid for gone in done}]:
        done += free
        left = [one for one in left if one not in free]
    return Order(tuple(done), frozenset(at_once), frozenset(related), tuple(sorted(one.table.name for one in left)))


class Eraser:
    """Deletes doomed rows piece by piece: while has_more(): delete(), each in a transaction of the caller's.

    Not thread-safe. A row that somebody moves meanwhile may be missed: is_left() tells, and another Eraser goes on.
    """

    def __init__(self, conn: Connection, doomed: Doomed, *, at_once: bool) -> None:
        self._conn, self._doomed, self._at_once = conn, doomed, at_once
        self._parts = [sql.Identifier(*row) for row in conn.execute(PARTS, (sorted(doomed.tree),))]
        self._page = self._n_deleted = 0
        self._began_part = False
        self._next: sql.Composed | None = None

    def has_more(self) -> bool:
        """Tell whether a piece is left that was not looked through."""
        self._next = self._next_statement()
        return self._next is not None

    def delete(self) -> dict[int, int]:
        """Delete the next piece in the caller's transaction; return how many rows went, by id of the marker.

        Raises: ConfigError: somebody has begun to refer to these rows. psycopg.Error as it came: a row is held for LOCK_WAIT.
        """
        assert self._next is not None  # has_more() said so
        self._conn.execute(NO_TIMEOUTS)
        self._conn.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_WAIT,))
        try:
            deleted: dict[int, int] = dict(self._conn.execute(self._next).fetchall())
        except psycopg.errors.ForeignKeyViolation as exc:
            raise ConfigError(
                f"table {self._doomed.table.name}: while its rows were being deleted, somebody began to refer to them "
                f"({exc.diag.message_primary}): delete what refers to them, and type it again to go on"
            ) from exc
        self._n_deleted = sum(deleted.values())
        return deleted

    def _next_statement(self) -> sql.Composed | None:
        if self._at_once:
            self._at_once, self._parts = False, []
            return self._format(AT_ONCE, self._doomed.identifier)
        while self._parts:
            part = self._parts[0]
            if has_index(self._conn, part, [self._doomed.marker]):
                if not self._began_part or self._n_deleted:
                    self._began_part = True
                    return self._format(BY_INDEX, part, n=sql.Literal(PIECE_ROWS))
            elif self._page < self._pages(part):
                first, self._page = self._page, self._page + PIECE_PAGES
                return self._format(IN_PAGES, part, first=sql.Literal(f"({first},0)"), last=sql.Literal(f"({self._page},0)"))
            self._parts, self._page, self._began_part = self._parts[1:], 0, False
        return None

    def _pages(self, part: sql.Identifier) -> int:
        statement = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint"
        [(pages,)] = self._conn.execute(statement, (part.as_string(self._conn),)).fetchall()
        return int(pages)

    def _format(self, statement: str, part: sql.Identifier, **more: sql.Composable) -> sql.Composed:
        ids = sql.Literal(list(self._doomed.ids))
        return sql.SQL(statement).format(part=part, marker=sql.Identifier(self._doomed.marker), ids=ids, **more)


def is_left(conn: Connection, doomed: Doomed) -> bool:
    """Tell whether a doomed row is still there. In a transaction of its own: a large table may take long to look through."""
    statement = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} = ANY({}::bigint[]))").format(
        doomed.identifier, sql.Identifier(doomed.marker), sql.Literal(list(doomed.ids))
    )
    with conn.transaction():
        conn.execute(NO_TIMEOUTS)
        [(left,)] = conn.execute(statement).fetchall()
    return bool(left)
