"""What a pipeline makes of some lines before anything is submitted: its rows by table, and what it refuses. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from protheon_dask.pipelines.jsonl import JsonlForm
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.row import JSON_TYPES
from protheon_dask.pipelines.table import BatchRows, Table

KEPT_BYTES: Final = 1_000
"""Bytes of a refused line that a preview keeps: what a person looks at."""
NO_LOAD: Final = 0
"""The number of a load that there is not yet."""
NO_LOAD_YET: Final = f"load_id is {NO_LOAD} here: a load has its number once it is submitted"
UNCHECKED: Final = (
    "PostgreSQL was not asked: NULs, nulls in key and NOT NULL columns, types, ranges and varchar(n) are looked at here; "
    "keys, CHECKs, foreign keys, triggers, and whether a table that is there fits, only as lines are loaded"
)


class Batch(Protocol):
    """Some whole lines of a source, as workspace.cut.LineBatch gives them."""

    first_line_no: int
    n_lines: int

    @property
    def lines(self) -> list[bytes]: ...
    @property
    def line_nos(self) -> range: ...
    def offset_of(self, i: int) -> int: ...
    def raw_line(self, i: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line beyond max_line_bytes, which no pipeline is given. head: how it begins; n_bytes: its length, as far as it was read."""

    line_no: int
    byte_offset: int
    head: bytes
    n_bytes: int
    reason: str


Check = Callable[[Table, Sequence[Sequence[Any]]], Iterable[tuple[int, str, str]]]
"""Finds rows of a table that its database would refuse: (index, reason, SQLSTATE) of each."""


@dataclass(frozen=True, slots=True)
class PreviewTable:
    """Rows of one table, and the line of each; JSON columns as their text."""

    table: Table
    line_nos: tuple[int, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.table.columns)


@dataclass(frozen=True, slots=True)
class PreviewReject:
    """A refused line, or a part of one. line: its first bytes, as it stands in the source; sqlstate: PostgreSQL would refuse it."""

    line_no: int
    byte_offset: int
    part: str | None
    reason: str
    sqlstate: str | None
    table: str | None
    line: bytes
    line_bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class Preview:
    """What a pipeline made of the first lines of a source.

    Units:     filtered and blank are the numbers of those lines, from 1.
    Guarantee: n_lines = loaded + filtered + rejected + blank, as a chunk's account has it. is_whole: the source has no other lines.
    """

    pipeline: str
    version: str
    path: str
    n_lines: int
    is_whole: bool
    loaded: int
    filtered: tuple[int, ...]
    blank: tuple[int, ...]
    tables: tuple[PreviewTable, ...]
    rejects: tuple[PreviewReject, ...]
    notes: tuple[str, ...]

    @property
    def rejected(self) -> int:
        """Lines that are refused as a whole; parts of lines are not among them."""
        return sum(1 for reject in self.rejects if reject.part is None)


class Previewer:
    """Sends lines through a pipeline as a worker does, and keeps all that comes of them. Single use.

    check:  finds rows that the database would refuse.
    Raises: what the pipeline raises that is not a line's fault, from here and from feed(): a chunk would fail by it.
    """

    def __init__(self, pipeline: Pipeline, path: str, check: Check) -> None:
        self._pipeline, self._path, self._check = pipeline, path, check
        self._transformer = pipeline.open(ChunkContext(load_id=NO_LOAD, task_id=0, path=path))
        self._n_lines = self._loaded = 0
        self._filtered: list[int] = []
        self._blank: list[int] = []
        self._rejects: list[PreviewReject] = []
        self._rows: list[list[tuple[int, tuple[Any, ...]]]] = [[] for _ in pipeline.tables]

    def feed(self, batch: Batch | LongLine) -> None:
        """Take the next lines."""
        if isinstance(batch, LongLine):
            self._n_lines += 1
            place = (batch.line_no, batch.byte_offset, None, batch.reason, None, None)
            self._rejects.append(PreviewReject(*place, batch.head[:KEPT_BYTES], batch.n_bytes))
            return
        made = self._transformer.transform(batch.lines, batch.line_nos)
        faults = self._faults(made)
        first = batch.first_line_no
        self._n_lines += batch.n_lines
        self._loaded += made.n_loaded() - len(faults)
        self._filtered += [first + index for index in made.filtered]
        self._blank += [first + index for index in made.blank]
        for kept, table in zip(self._rows, made.tables, strict=True):
            lines = (bisect_right(table.ends, place) for place in range(len(table.rows)))
            kept += [(first + line, tuple(row)) for line, row in zip(lines, table.rows, strict=True) if line not in faults]
        refused: list[tuple[int, str | None, str, str | None, str | None]]
        refused = [(verdict.index, verdict.part, verdict.reason, None, None) for verdict in made.rejected]
        refused += [(verdict.index, verdict.part, verdict.reason, None, None) for verdict in made.parts if verdict.index not in faults]
        refused += [(index, None, *fault) for index, fault in faults.items()]
        for index, part, reason, sqlstate, table_name in sorted(refused, key=lambda one: one[0]):
            raw = batch.raw_line(index)
            at, line = (first + index, batch.offset_of(index)), (raw[:KEPT_BYTES], len(raw))
            self._rejects.append(PreviewReject(*at, part, reason, sqlstate, table_name, *line))

    def _faults(self, made: BatchRows) -> dict[int, tuple[str, str, str]]:
        """By line of the batch: reason, SQLSTATE and table of the first row of it that its database would refuse."""
        found: dict[int, tuple[str, str, str]] = {}
        for target, table in zip(self._pipeline.tables, made.tables, strict=True):
            for index, reason, sqlstate in self._check(target, table.rows):
                found.setdefault(bisect_right(table.ends, index), (reason, sqlstate, target.name))
        return found

    def finish(self, *, is_whole: bool, notes: Sequence[str] = ()) -> Preview:
        """All that was seen. notes: what else a person should know of it."""
        if isinstance(self._pipeline.form, JsonlForm):
            notes = [*notes, NO_LOAD_YET]
        return Preview(
            pipeline=self._pipeline.name,
            version=self._pipeline.version,
            path=self._path,
            n_lines=self._n_lines,
            is_whole=is_whole,
            loaded=self._loaded,
            filtered=tuple(self._filtered),
            blank=tuple(self._blank),
            tables=tuple(_table(table, rows) for table, rows in zip(self._pipeline.tables, self._rows, strict=True)),
            rejects=tuple(self._rejects),
            notes=(*notes, UNCHECKED),
        )


def _table(table: Table, rows: Sequence[tuple[int, tuple[Any, ...]]]) -> PreviewTable:
    texts = [column.type in JSON_TYPES for column in table.columns]
    return PreviewTable(
        table,
        tuple(line_no for line_no, _ in rows),
        tuple(tuple(_text(value) if text else value for value, text in zip(row, texts, strict=False)) for _, row in rows),
    )


def _text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
