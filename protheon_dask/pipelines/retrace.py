"""A pipeline run once more on lines that it failed on, so that the error is at hand as it was raised, with its frames. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, Final

import msgspec

from protheon_dask.errors import Reject
from protheon_dask.pipelines.batches import BatchForm
from protheon_dask.pipelines.lines import LineForm
from protheon_dask.pipelines.pipeline import ChunkContext, Form, Pipeline, Transformer
from protheon_dask.pipelines.table import BatchRows
from protheon_dask.pipelines.verdict import BLANK, DECODE_ERRORS

MOST_CALLS: Final = 64
"""Calls that a search for the one line of a batch may take; halves of 2,000 lines take 22."""


@dataclass(frozen=True, slots=True)
class Retraced:
    """What came of one line. error: what refused it, or ended all; None: it passes. made: its rows and verdicts, if it had an end."""

    error: BaseException | None
    made: BatchRows | None


@dataclass(frozen=True, slots=True)
class Broken:
    """Lines (from 0 in their batch) on which the pipeline raises what is not a line's fault."""

    indexes: Sequence[int]
    error: BaseException


def retrace_line(pipeline: Pipeline, context: ChunkContext, line: bytes, line_no: int, part: str | None = None) -> Retraced:
    """Run the pipeline on one line, as a worker does.

    part: a part of the line that is to be followed: the function stops where it refuses that.
    Guarantee: an error of the author's code comes as it was raised. A Reject that was yielded, and what Protheon refuses of a row that
               was, are raised at that yield. What has no place in the author's code is the decoder's error, or a Reject with the reason.
    """
    recorder = _Recorder(pipeline.form.function, part)
    transformer = _watched(pipeline.form, recorder).open(pipeline.tables, context)
    try:
        made = transformer.transform([line], [line_no])
    except Exception as raised:  # noqa: BLE001  # the author's code; that it is raised here is what was asked for
        return Retraced(raised, None)
    verdicts = made.rejected or [verdict for verdict in made.parts if part is not None and verdict.part == part]
    if not verdicts:
        return Retraced(None, made)
    reject = Reject(verdicts[0].reason, verdicts[0].part)
    error = recorder.error or recorder.raise_at_yield(reject) or (None if recorder.n_calls else _not_decoded(pipeline.form, line))
    return Retraced(error or reject, made)


def retrace_chunk(pipeline: Pipeline, context: ChunkContext, batches: Iterable[tuple[Sequence[bytes], Sequence[int]]]) -> Broken | None:
    """Run the pipeline on batches of lines (and their numbers), as a worker does, up to the first lines that it breaks on; return those.

    None: all pass; lines that are refused are no breaking. The indexes count from the first line of the first batch.
    Guarantee: a function of a line is called line by line. Of a batch halves are tried, and all of the batch is named where its lines
               break it only together. Memory is a batch.
    """
    recorder = _Recorder(pipeline.form.function)
    transformer = _watched(pipeline.form, recorder).open(pipeline.tables, context)
    first = 0
    for lines, line_nos in batches:
        if isinstance(pipeline.form, BatchForm):
            broken = _broken_batch(transformer, lines, line_nos)
        else:
            broken = _broken_line(transformer, lines, line_nos)
        if broken is not None:
            return replace(broken, indexes=[first + index for index in broken.indexes])
        first += len(lines)
    return None


def _broken_line(transformer: Transformer, lines: Sequence[bytes], line_nos: Sequence[int]) -> Broken | None:
    for index, (line, line_no) in enumerate(zip(lines, line_nos, strict=True)):
        if (error := _error_of(transformer, [line], [line_no])) is not None:
            return Broken([index], error)
    return None


def _broken_batch(transformer: Transformer, lines: Sequence[bytes], line_nos: Sequence[int]) -> Broken | None:
    if (error := _error_of(transformer, lines, line_nos)) is None:
        return None
    indexes = range(len(lines))
    for _ in range(MOST_CALLS):
        if len(indexes) == 1:
            break
        middle = len(indexes) // 2
        for half in (indexes[:middle], indexes[middle:]):
            found = _error_of(transformer, [lines[index] for index in half], [line_nos[index] for index in half])
            if type(found) is type(error):
                indexes, error = half, found
                break
        else:
            break
    return Broken(indexes, error)


def _error_of(transformer: Transformer, lines: Sequence[bytes], line_nos: Sequence[int]) -> BaseException | None:
    try:
        transformer.transform(lines, line_nos)
    except Exception as error:  # noqa: BLE001  # the author's code; that it is raised here is what was asked for
        return error
    return None


def _watched(form: Form, recorder: _Recorder) -> Form:
    """The form with the recorder in the function's place; the built-in forms call no function of anybody's."""
    return replace(form, function=recorder) if isinstance(form, LineForm | BatchForm) else form


def _not_decoded(form: Form, line: bytes) -> BaseException | None:
    """The decoder's own error of a line that never reached the function."""
    if not line.strip(BLANK):
        return None
    wanted = dict[str, Any] if isinstance(form, BatchForm) else form.parameter if isinstance(form, LineForm) else bytes
    if wanted is bytes:
        return None
    try:
        msgspec.json.Decoder(wanted, strict=False).decode(line)
    except DECODE_ERRORS as error:
        return error
    return None


class _Recorder:
    """An author's function, and what it raised when it was called last. Single use, not thread-safe."""

    def __init__(self, function: Callable[[Any], Any], part: str | None = None) -> None:
        self._function, self._part = function, part
        self._open: Generator[Any] | None = None  # the last generator that was not exhausted
        self.error: BaseException | None = None
        self.n_calls = 0

    @property
    def __code__(self) -> CodeType | None:
        """The function's, by which reasons name a place in its file."""
        return getattr(self._function, "__code__", None)

    def __call__(self, value: Any) -> Any:
        self.n_calls += 1
        self._open = self.error = None
        try:
            result = self._function(value)
        except Exception as error:
            self.error = error
            raise
        return self._followed(result) if isinstance(result, Iterator) else result

    def _followed(self, result: Iterator[Any]) -> Iterator[Any]:
        self._open = result if isinstance(result, Generator) else None
        while True:
            try:
                item = next(result)
            except StopIteration:
                self._open = None
                return
            except Exception as error:
                self.error = error
                raise
            yield item
            if self._part is not None and isinstance(item, Reject) and item.part == self._part:
                self.error = self.raise_at_yield(item)
                return

    def raise_at_yield(self, reject: Reject) -> BaseException | None:
        """Raise at the yield where the generator stands; what came out of it, or None where there is none, or its code went on."""
        if self._open is None:
            return None
        try:
            self._open.throw(reject)
        except StopIteration:
            return None
        except Exception as error:  # noqa: BLE001  # the author's code has the error in hand now
            return error if error is reject else None
        return None
