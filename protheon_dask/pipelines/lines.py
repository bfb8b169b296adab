"""Pipelines that are called once a line: the hot loop around the author's function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import msgspec

from protheon_dask.errors import Reject
from protheon_dask.pipelines.pipeline import FILTERED, ChunkContext
from protheon_dask.pipelines.row import Row, RowMeta
from protheon_dask.pipelines.table import BatchRows, Table, TableRows, Verdict
from protheon_dask.pipelines.targets import Targets
from protheon_dask.pipelines.verdict import BLANK, DECODE_ERRORS, NOT_THE_LINES_FAULT, VANISHED, clean, code_of, decode_reason, reason_of

STRIDE_LINES: Final = 20
"""Lines between two words of progress: a function may take a twentieth of stall_s a line, and one costs 20 ns a line (measured)."""


@dataclass(frozen=True, slots=True)
class LineForm:
    """A function of one line; parameter is bytes, or the type to which msgspec decodes the line."""

    function: Callable[[Any], Any]
    parameter: Any
    row_classes: tuple[RowMeta | None, ...]

    def open(self, tables: tuple[Table, ...], context: ChunkContext) -> LineTransformer:
        decode = None if self.parameter is bytes else msgspec.json.Decoder(self.parameter, strict=False).decode
        return LineTransformer(decode, self.function, Targets(tables, self.row_classes), context.progress)


@dataclass(slots=True)
class LineTransformer:
    """Calls the function on each line and keeps what it gives. decode is None where the function takes the bytes."""

    decode: Callable[[bytes], Any] | None
    function: Callable[[Any], Any]
    targets: Targets
    progress: Callable[[], None]

    def transform(self, lines: Sequence[bytes], line_nos: Sequence[int]) -> BatchRows:  # noqa: ARG002  # rows carry no line number
        decode, function = self.decode, self.function
        batch = BatchRows(len(lines), [TableRows() for _ in self.targets.tables])
        taker = _Taker(self.targets, batch)
        take, adders = taker.take, taker.adders
        marks = [(table.rows, table.ends.append) for table in batch.tables]
        one_rows, one_end = marks[0] if len(marks) == 1 else (None, None)
        for index, line in enumerate(chain.from_iterable(_strides(lines, self.progress))):
            try:
                if decode is not None:
                    value = decode(line)
                elif line.strip(BLANK):
                    value = line
                else:
                    batch.blank.append(index)
                    taker.end_line()
                    continue
            except DECODE_ERRORS as error:
                if line.strip(BLANK):
                    batch.rejected.append(Verdict(index, decode_reason(error, line)))
                else:
                    batch.blank.append(index)
                taker.end_line()
                continue
            try:
                result = function(value)
                adder = adders.get(type(result))
                if adder is not None:  # one Row: by far the most frequent answer
                    adder[0](adder[1](result))
                    if one_rows is not None and one_end is not None:
                        one_end(len(one_rows))
                    else:
                        for rows, end in marks:
                            end(len(rows))
                    continue
                take(index, result)
            except Reject as verdict:
                taker.refuse(index, verdict)
            except NOT_THE_LINES_FAULT:
                raise
            except Exception as error:  # noqa: BLE001  # the author's code; whatever it raises on a line is that line's reject
                taker.refuse_whole(index, reason_of(error, code_of(function)))
            taker.end_line()
        return batch


def _strides(lines: Sequence[bytes], progress: Callable[[], None]) -> Iterator[Sequence[bytes]]:
    """Cut lines into pieces and tell of progress before each."""
    for start in range(0, len(lines), STRIDE_LINES):
        progress()
        yield lines[start : start + STRIDE_LINES]


class _Taker:
    """Files what the function gave for one line into the batch, and takes it back when the line is refused.

    adders: for each Row class the append of its table's rows and what makes values of an instance.
    """

    def __init__(self, targets: Targets, batch: BatchRows) -> None:
        self._targets, self._batch = targets, batch
        self.adders = {cls: (batch.tables[i].rows.append, values) for cls, (i, values) in targets.by_class.items()}
        self._n_parts = 0  # refused parts of the lines before this one

    def take(self, index: int, result: Any) -> None:
        """File the result of one line; raises Reject for the line."""
        if result is FILTERED:
            self._batch.filtered.append(index)
        elif result is not None:
            single = isinstance(result, (tuple, dict, Row, Reject, str, bytes)) or not isinstance(result, Iterable)
            filtered = False
            for item in (result,) if single else result:
                adder = self.adders.get(type(item))
                if adder is not None:
                    adder[0](adder[1](item))
                elif item is FILTERED:
                    filtered = True
                elif isinstance(item, Reject):
                    if item.part is None:
                        raise item
                    self._refuse_part(index, item)
                else:
                    place, values = self._targets.place(item)
                    self._batch.tables[place].rows.append(values)
            if filtered:
                self._filter(index)
                return
        if result is not FILTERED and not self._has_something():
            raise Reject(VANISHED)

    def _filter(self, index: int) -> None:
        if self._has_something():
            raise Reject("the pipeline gave both FILTERED and rows or refused parts")
        self._batch.filtered.append(index)

    def _has_something(self) -> bool:
        if len(self._batch.parts) > self._n_parts:
            return True
        return any(len(table.rows) > (table.ends[-1] if table.ends else 0) for table in self._batch.tables)

    def _refuse_part(self, index: int, verdict: Reject) -> None:
        self._batch.parts.append(Verdict(index, clean(verdict.reason), clean(verdict.part or "")))

    def refuse(self, index: int, verdict: Reject) -> None:
        """Refuse the line, or the one part that a raised Reject names: the rows before it then stay."""
        if verdict.part is None:
            self.refuse_whole(index, clean(verdict.reason))
        else:
            self._refuse_part(index, verdict)

    def refuse_whole(self, index: int, reason: str) -> None:
        """Refuse the line and take back its rows and refused parts."""
        for table in self._batch.tables:
            del table.rows[table.ends[-1] if table.ends else 0 :]
        del self._batch.parts[self._n_parts :]
        self._batch.rejected.append(Verdict(index, reason))

    def end_line(self) -> None:
        """Close the line: what comes next is the next line's."""
        self._n_parts = len(self._batch.parts)
        for table in self._batch.tables:
            table.ends.append(len(table.rows))
