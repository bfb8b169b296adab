"""Rows that a table would refuse, told from its declaration alone: before there is a database, or a table in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg.adapt import AdaptersMap

from protheon_dask.pipelines.table import Column, Table
from protheon_dask.sink.catalog import TargetColumn
from protheon_dask.sink.copy import WRONG_SHAPE, faulty_values, is_encodable
from protheon_dask.sink.encode import PLAIN_OIDS, TEXT, ArrayOf, Plain, Wire, register_encoders

CHAR: Final = 1042
VARYING: Final = 1043
TOO_LONG: Final = "22001"
ALIASES: Final = {"int": "int4", "decimal": "numeric", "float": "float8", "char": "bpchar"}
"""Names of types that PostgreSQL's grammar knows and its catalogue does not."""
MODIFIER: Final = re.compile(r"\s*\(([^)]*)\)")
"""As in varchar(20), numeric(10,2), timestamp(3) with time zone."""


def foreseen_faults(table: Table, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, str, str]]:
    """Find rows that the table cannot take as it is declared: (index, reason, SQLSTATE) of each, in the words of a load.

    Guarantee: asks nobody. A row that passes may still be refused: columns of other types than the built-in ones are not looked at,
               nor are keys, constraints, digits of numeric(p,s), and what a table that is there has otherwise.
    """
    if not rows:
        return
    known = [_known(table, column) for column in table.columns]
    wires = _wires(known)
    places = [place for place, target in enumerate(known) if target is not None]
    columns = [target for target in known if target is not None]
    limits = [_limit(table.columns[place], target) for place, target in zip(places, columns, strict=True)]
    is_whole = [len(row) == len(known) for row in rows]
    looked = [[row[place] for place in places] if whole else [None] * len(places) for row, whole in zip(rows, is_whole, strict=True)]
    faults = {index: (reason, sqlstate) for index, reason, sqlstate in faulty_values(_Nobody(), wires, columns, table.name, looked)}
    for index, row in enumerate(looked):
        if not is_whole[index]:
            yield index, f"a row of {len(rows[index])} values for the {len(known)} columns of {table.name}", WRONG_SHAPE
        elif (fault := faults.get(index) or _too_long(columns, limits, row)) is not None:
            yield index, *fault


def is_sendable(table: Table, row: Sequence[Any]) -> bool:
    """Can each value be sent to its column? What cannot is refused before PostgreSQL sees it. A type that is not known here takes all."""
    known = [_known(table, column) for column in table.columns]
    context = _Nobody()
    register_encoders(context, _wires(known))
    return len(row) == len(known) and all(
        target is None or value is None or is_encodable(context, target.oid, value) for target, value in zip(known, row, strict=True)
    )


def _wires(known: Sequence[TargetColumn | None]) -> dict[int, Wire]:
    wires: dict[int, Wire] = {}
    for target in known:
        if target is not None:
            wires[target.wire_oid] = Plain(TEXT if target.wire_oid == CHAR else target.wire_oid)
            if target.is_array:
                wires[target.oid] = ArrayOf(target.wire_oid)
    return wires


class _Nobody:
    """What encoders ask of a connection, without one: each has its own map, for they are registered in it."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)


def _known(table: Table, column: Column) -> TargetColumn | None:
    """The column as the database would have it; None: its type is none of the built-in ones that are looked at."""
    plain, is_array = re.subn(r"(\s*\[\d*\])+$", "", column.type.strip().lower())
    name = " ".join(MODIFIER.sub(" ", plain).split())
    info = psycopg.adapters.types.get(ALIASES.get(name, name))
    if info is None or not (info.oid in PLAIN_OIDS or info.oid == CHAR):
        return None
    not_null = column.not_null or column.name in table.primary_key
    type_ = _spelled(info.regtype, plain) + "[]" * bool(is_array)
    return TargetColumn(column.name, info.array_oid if is_array else info.oid, info.oid, type_, not_null, bool(is_array))


def _spelled(regtype: str, plain: str) -> str:
    """A type as PostgreSQL's format_type() names it, and so a load: ``timestamptz(3)`` is ``timestamp(3) with time zone``."""
    modifier = MODIFIER.search(plain)
    if modifier is None:
        if plain.startswith("bpchar"):
            return plain
        return f"{regtype}(1)" if regtype in ("character", "bit") else regtype
    first, with_zone, _ = regtype.partition(" with")  # of times the modifier stands in the middle
    return f"{first}({modifier[1].replace(' ', '')}){regtype[len(first) :] if with_zone else ''}"


def _limit(column: Column, target: TargetColumn) -> int | None:
    """The characters that a column takes at most; None: as many as there are."""
    if target.wire_oid not in (CHAR, VARYING) or target.is_array:
        return None
    modifier = MODIFIER.search(column.type)
    if modifier is None:
        return 1 if target.wire_oid == CHAR and "bpchar" not in column.type else None
    return int(modifier[1])


def _too_long(columns: Sequence[TargetColumn], limits: Sequence[int | None], row: Sequence[Any]) -> tuple[str, str] | None:
    for column, limit, value in zip(columns, limits, row, strict=False):
        if limit is not None and isinstance(value, str) and len(value) > limit and value[limit:].strip(" "):  # blanks are cut off
            return f"value too long for column {column.name!r} ({column.type}): {len(value):,} characters", TOO_LONG
    return None
