"""Target tables as values: what a pipeline declares, and what the sink creates, checks and loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from protheon_dask.errors import ConfigError

OnConflict = Literal["error", "ignore", "update", "add"]

PROVENANCE = "_protheon_chunk"
"""The column of a table with provenance: bigint, the id of the chunk's task."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. type is PostgreSQL's name of it, such as ``bigint``, ``text`` or ``integer[]``."""

    name: str
    type: str
    not_null: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """columns of this table refer to other_columns of other_table; made once at the end of a run."""

    columns: tuple[str, ...]
    other_table: str
    other_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One target table of a pipeline.

    name:         ``schema.table``; without a schema, ``public``. Case is kept.
    primary_key:  column names; empty: the table has no key and takes every row.
    on_conflict:  what happens to a row whose key is there: ``error`` rejects its line, ``ignore`` keeps the stored row,
                  ``update`` replaces it, ``add`` adds the columns outside the key to the stored ones.
    newer_by:     with ``update``: only if this column's value is strictly greater than the stored one.
    shared:       chunks meet on the same keys: rows are staged and merged last, in key order.
    provenance:   keep the chunk's task id in ``_protheon_chunk``.
    """

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    on_conflict: OnConflict = "error"
    newer_by: str | None = None
    shared: bool = False
    provenance: bool = False
    indexes: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    comment: str | None = None

    def __post_init__(self) -> None:
        if "." not in self.name:
            object.__setattr__(self, "name", f"public.{self.name}")
        names = [column.name for column in self.columns]
        problems = []
        if not names:
            problems.append("it has no columns")
        if len(set(names)) != len(names):
            problems.append("a column is named twice")
        if PROVENANCE in names:
            problems.append(f"{PROVENANCE} is Protheon's own column; say provenance=True instead")
        problems += [f"key column {name!r} is not among its columns" for name in self.primary_key if name not in names]
        problems += [f"indexed column {name!r} is not among its columns" for index in self.indexes for name in index if name not in names]
        if self.on_conflict not in get_args(OnConflict):
            problems.append(f"on_conflict={self.on_conflict!r} is none of {', '.join(map(repr, get_args(OnConflict)))}")
        if self.on_conflict != "error" and not self.primary_key:
            problems.append(f"on_conflict={self.on_conflict!r} needs a primary_key")
        if self.newer_by is not None and (self.on_conflict != "update" or self.newer_by not in names):
            problems.append("newer_by names a column of a table with on_conflict='update'")
        if self.shared and self.on_conflict == "error":
            problems.append("a shared table needs on_conflict 'ignore', 'update' or 'add'")
        if problems:
            raise ConfigError(f"table {self.name}: " + "; ".join(problems))

    @property
    def schema(self) -> str:
        return self.name.split(".", 1)[0]

    @property
    def relation(self) -> str:
        """The name without the schema."""
        return self.name.split(".", 1)[1]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that from_json reads back: what travels to the master, which does not import the pipeline."""
        return {
            "name": self.name,
            "columns": [[c.name, c.type, c.not_null, c.comment] for c in self.columns],
            "primary_key": list(self.primary_key),
            "on_conflict": self.on_conflict,
            "newer_by": self.newer_by,
            "shared": self.shared,
            "provenance": self.provenance,
            "indexes": [list(index) for index in self.indexes],
            "foreign_keys": [[list(k.columns), k.other_table, list(k.other_columns)] for k in self.foreign_keys],
            "comment": self.comment,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            name=value["name"],
            columns=tuple(Column(*column) for column in value["columns"]),
            primary_key=tuple(value["primary_key"]),
            on_conflict=value["on_conflict"],
            newer_by=value["newer_by"],
            shared=value["shared"],
            provenance=value["provenance"],
            indexes=tuple(tuple(index) for index in value["indexes"]),
            foreign_keys=tuple(ForeignKey(tuple(a), b, tuple(c)) for a, b, c in value["foreign_keys"]),
            comment=value["comment"],
        )


@dataclass(slots=True)
class TableRows:
    """Rows of one table from one batch, line after line.

    rows[ends[i - 1]:ends[i]] are the rows of the batch's line i (from 0; ends[-1] of nothing is 0), so a row carries
    no line number of its own and a run of lines is a slice.
    Guarantee: ends never decreases, len(ends) = lines of the batch, ends[-1] = len(rows).
    """

    rows: list[Sequence[Any]] = field(default_factory=list)  # each as long as the table's columns, in their order
    ends: list[int] = field(default_factory=list)

    def of_lines(self, start: int, stop: int) -> list[Sequence[Any]]:
        """Rows of the lines start (included) to stop (excluded), counted from 0 in the batch."""
        first = self.ends[start - 1] if start > 0 else 0
        last = self.ends[stop - 1] if stop > 0 else 0
        return self.rows if first == 0 and last == len(self.rows) else self.rows[first:last]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A pipeline's refusal of one line of a batch (from 0), or of one part of it."""

    index: int
    reason: str
    part: str | None = None


@dataclass(slots=True)
class BatchRows:
    """What a pipeline made of one batch: the seam between pipelines and sink.

    tables:    one TableRows for each table of the pipeline, in the pipeline's order.
    rejected:  whole lines that were refused; they have no rows.
    parts:     refused parts; their lines have their other rows and count as loaded.
    filtered, blank: indexes of lines with that verdict; they have no rows.
    Guarantee: a line without rows is in rejected, filtered or blank, or in parts ("all its parts were refused").
    """

    n_lines: int
    tables: list[TableRows]
    rejected: list[Verdict] = field(default_factory=list)
    parts: list[Verdict] = field(default_factory=list)
    filtered: list[int] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)

    def n_loaded(self) -> int:
        """Count the lines that have rows, or nothing but refused parts.

        Guarantee: from rows and parts alone: that it and the other verdicts add up to n_lines is a finding, not a definition.
        """
        ends = [table.ends for table in self.tables]
        marks = set(zip(*ends, strict=False))  # one for each line with rows, since ends never decrease; and that of none before
        alone = {part.index for part in self.parts if not any(table.of_lines(part.index, part.index + 1) for table in self.tables)}
        return len(marks) - ((0,) * len(ends) in marks) + len(alone)
