"""Pipelines that are called once a batch; halves of it find the lines that fail."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec

from protheon_dask.errors import ConfigError, Reject
from protheon_dask.pipelines.frames import LINE, is_frame, make_frame, panics, read_frame
from protheon_dask.pipelines.pipeline import FILTERED, ChunkContext
from protheon_dask.pipelines.row import RowMeta
from protheon_dask.pipelines.table import BatchRows, Table, TableRows, Verdict
from protheon_dask.pipelines.targets import Targets
from protheon_dask.pipelines.verdict import (
    BLANK,
    DECODE_ERRORS,
    NO_NUL,
    NOT_THE_LINES_FAULT,
    VANISHED,
    clean,
    code_of,
    decode_reason,
    reason_of,
)


@dataclass(frozen=True, slots=True)
class BatchForm:
    """A function of a batch; gives is "lines" (list[bytes]) or the library of the frame that it takes."""

    function: Callable[[Any], Any]
    gives: str
    row_classes: tuple[RowMeta | None, ...]

    def open(self, tables: tuple[Table, ...], context: ChunkContext) -> BatchTransformer:
        return BatchTransformer(self.function, self.gives, Targets(tables, self.row_classes), context.progress)


@dataclass(slots=True)
class _Answer:
    """What the function gave for some lines; line indexes are those of the whole batch."""

    rows: list[list[tuple[int, Sequence[Any]]]]  # for each table (line, values)
    filtered: set[int] = field(default_factory=set)
    rejected: dict[int, str] = field(default_factory=dict)
    parts: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the function may be given of a batch: by the line's index its bytes or its document; names of a frame's columns."""

    inputs: Mapping[int, Any]
    names: Sequence[str]


_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


@dataclass(slots=True)
class BatchTransformer:
    """Calls the function on all lines of a batch that are not blank, and on halves where it raises.

    Each call is progress; within one nobody can tell work from a stall, so that none may take stall_s.
    """

    function: Callable[[Any], Any]
    gives: str
    targets: Targets
    progress: Callable[[], None]

    def transform(self, lines: Sequence[bytes], line_nos: Sequence[int]) -> BatchRows:  # noqa: ARG002  # rows carry no line number
        names: dict[str, None] = {}  # of the whole batch: half of it is given the same columns
        blank = [index for index, line in enumerate(lines) if not line.strip(BLANK)]
        answer = _Answer([[] for _ in self.targets.tables])
        inputs: dict[int, Any] = {}
        skipped = set(blank)
        for index, line in enumerate(lines):
            if index in skipped:
                continue
            if self.gives == "lines":
                inputs[index] = line
                continue
            try:
                document = _DOCUMENT.decode(line)
                if b"\\u0000" in line and _has_nul_key(document):
                    answer.rejected[index] = NO_NUL  # objects of one column share their keys: this one would be in every line's
                    continue
                inputs[index] = document
                names.update(dict.fromkeys(document))
            except DECODE_ERRORS as error:
                answer.rejected[index] = decode_reason(error, line)
        if inputs:
            self._solve(list(inputs), _Batch(inputs, tuple(names)), answer)
        return _assemble(len(lines), blank, answer)

    def _solve(self, indexes: list[int], batch: _Batch, answer: _Answer) -> None:
        """Add the answer for these lines; on an exception ask for each half anew, down to one line, which is then rejected."""
        authors_errors: tuple[type[BaseException], ...] = (Exception, *panics(self.gives))
        given = [batch.inputs[index] for index in indexes]
        attempt = _Answer([[] for _ in self.targets.tables])
        self.progress()
        try:
            result = self.function(given if self.gives == "lines" else make_frame(self.gives, given, batch.names))
            self._read(result, indexes, attempt)
        except NOT_THE_LINES_FAULT as error:
            if not isinstance(error, Reject):
                raise
            self._halve(indexes, batch, answer, clean(error.reason))
            return
        except authors_errors as error:  # whatever the author's code raises is the reject of the lines that cause it
            self._halve(indexes, batch, answer, reason_of(error, code_of(self.function)))
            return
        for mine, theirs in zip(answer.rows, attempt.rows, strict=True):
            mine += theirs
        answer.filtered |= attempt.filtered
        answer.rejected |= attempt.rejected
        answer.parts += attempt.parts
        seen = {line for line, _ in chain.from_iterable(attempt.rows)} | {part.index for part in attempt.parts}
        for index in indexes:
            if index in attempt.rejected:
                continue
            if index in seen and index in attempt.filtered:
                answer.rejected[index] = "the pipeline gave both FILTERED and rows or refused parts"
            elif index not in seen and index not in attempt.filtered:
                answer.rejected[index] = VANISHED

    def _halve(self, indexes: list[int], batch: _Batch, answer: _Answer, reason: str) -> None:
        if len(indexes) == 1:
            answer.rejected[indexes[0]] = reason
            return
        middle = len(indexes) // 2
        self._solve(indexes[:middle], batch, answer)
        self._solve(indexes[middle:], batch, answer)

    def _read(self, result: Any, indexes: list[int], attempt: _Answer) -> None:
        if is_frame(result):
            if len(self.targets.tables) != 1:
                raise ConfigError(f"the pipeline has {len(self.targets.tables)} tables: return {{table: frame}}, not a frame alone")
            self._read_frame(result, 0, indexes, attempt)
        elif isinstance(result, Mapping):
            for key, value in result.items():
                if key is FILTERED:
                    attempt.filtered |= {_at(line, indexes) for line in value}
                    continue
                place = self.targets.index_of(key) if isinstance(key, (str, Table, RowMeta)) else None
                if place is None:
                    raise ConfigError(f"{key!r} is not among the pipeline's tables: {', '.join(t.name for t in self.targets.tables)}")
                self._read_frame(value, place, indexes, attempt)
        elif isinstance(result, Iterable) and not isinstance(result, (str, bytes)):
            for item in result:
                self._read_item(item, indexes, attempt)
        else:
            raise ConfigError(f"a batch function returned {type(result).__name__}: return a frame, {{table: frame}} or a list of rows")

    def _read_frame(self, frame: Any, place: int, indexes: list[int], attempt: _Answer) -> None:
        table = self.targets.tables[place]
        if not is_frame(frame):
            raise ConfigError(f"a batch function returned {type(frame).__name__} for {table.name}, which is no frame")
        lines, rows, refused = read_frame(frame, table)
        attempt.rejected |= {_at(lines[row], indexes): clean(reason) for row, reason in refused.items()}
        for line, row in zip(lines, rows, strict=True):
            attempt.rows[place].append((_at(line, indexes), self.targets.values(place, row)))

    def _read_item(self, item: Any, indexes: list[int], attempt: _Answer) -> None:
        row: Any
        if isinstance(item, dict) and LINE in item:
            line, row = _at(item[LINE], indexes), {key: value for key, value in item.items() if key != LINE}
        elif isinstance(item, tuple) and len(item) == 2 and type(item[0]) is int:
            line, row = _at(item[0], indexes), item[1]
        else:
            raise ConfigError(f"a batch function gives (line, row) or a dict with {LINE!r}, not {type(item).__name__}")
        try:
            if row is FILTERED:
                attempt.filtered.add(line)
            elif isinstance(row, Reject):
                if row.part is None:
                    raise row
                attempt.parts.append(Verdict(line, clean(row.reason), clean(row.part)))
            else:
                place, values = self.targets.place(row)
                attempt.rows[place].append((line, values))
        except Reject as verdict:
            attempt.rejected[line] = clean(verdict.reason)


def _has_nul_key(value: Any) -> bool:
    rest = [value]
    while rest:
        value = rest.pop()
        if type(value) is dict:
            if any("\0" in key for key in value):
                return True
            rest += value.values()
        elif type(value) is list:
            rest += value
    return False


def _at(line: Any, indexes: list[int]) -> int:
    """The batch's index of a line that the function names by its place among the lines it was given."""
    place = int(line)
    if not 0 <= place < len(indexes):
        raise ConfigError(f"{LINE} is {place}, but the function was given {len(indexes)} lines, counted from 0")
    return indexes[place]


def _assemble(n_lines: int, blank: list[int], answer: _Answer) -> BatchRows:
    """Bring rows into the order of their lines; a refused line has none."""
    tables = []
    for pairs in answer.rows:
        kept = sorted((pair for pair in pairs if pair[0] not in answer.rejected), key=lambda pair: pair[0])
        lines = [line for line, _ in kept]
        tables.append(TableRows([values for _, values in kept], [bisect_right(lines, index) for index in range(n_lines)]))
    return BatchRows(
        n_lines,
        tables,
        rejected=[Verdict(index, reason) for index, reason in sorted(answer.rejected.items())],
        parts=[part for part in sorted(answer.parts, key=lambda part: part.index) if part.index not in answer.rejected],
        filtered=sorted(answer.filtered - answer.rejected.keys()),
        blank=blank,
    )
