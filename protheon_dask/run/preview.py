"""A pipeline on the first lines of a file, here and now: what would be loaded and what refused, before anything is submitted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields

from protheon_dask.errors import ConfigError, SourceDamaged
from protheon_dask.pipelines import preview as pure
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.pipelines.preview import KEPT_BYTES, LongLine, Previewer
from protheon_dask.run.settings import read_settings
from protheon_dask.run.submitting import pipeline_of
from protheon_dask.sink.foresee import foreseen_faults
from protheon_dask.telemetry.previewed import preview_html, preview_text
from protheon_dask.words import counted
from protheon_dask.workspace.archives import Archive, open_archive
from protheon_dask.workspace.cut import BATCH_BYTES, BATCH_LINES, Cut, Cutter, LineBatch, Overlong
from protheon_dask.workspace.source import open_source, resolve
from protheon_dask.workspace.url import absolute, shown

N_LINES = 5


@dataclass(frozen=True, slots=True, repr=False)
class Preview(pure.Preview):
    """What a pipeline made of the first lines of a source, as a person sees it: tables of rows and of rejects."""

    def __repr__(self) -> str:
        return preview_text(self)

    def _repr_html_(self) -> str:
        return preview_html(self)


def preview(pipeline: str | Pipeline, path: str | os.PathLike[str], n: int = N_LINES, *, table: str | None = None) -> Preview:
    """Run a pipeline here, in this process, on the first n lines of a file, and show its rows and its rejects. Nothing is loaded.

    pipeline: one of protheon.pipeline's, or a name: ``jsonl``, ``pgcr``, an entry point, ``module:name``, ``file.py:name``.
    path:     what load takes: a file, plain or compressed, a directory or a glob (of which the first file is taken), an fsspec URL; as
              this process sees it.
    table:    only for jsonl: its target.
    Raises:   NotFound, ConfigError, SourceUnavailable: the pipeline or the path. SourceDamaged: not one line can be read. And what the
              pipeline itself raises that is not a line's fault: MemoryError, ImportError, ConfigError; a chunk would fail by it.
    Guarantee: lines are cut, decoded and judged by the code that workers run. Batch functions get the n lines as one batch, at most
              2,000, as workers give them. PostgreSQL is not asked; the preview says what that leaves open.
    """
    if type(n) is not int or n < 1:
        raise ConfigError(f"n={n!r} is no number of lines: give 1 or more")
    place = absolute(os.fspath(path))
    chosen = pipeline_of(pipeline, table=table, paths=[place])
    sources = resolve([place])
    notes = [f"the first of {counted(len(sources), 'file')}"] if len(sources) > 1 else []
    previewer = Previewer(chosen, shown(sources[0]), foreseen_faults)
    head = Head(sources[0], n, read_settings({}).settings.max_line_bytes)
    for batch in head:
        previewer.feed(batch)
    if head.stopped:
        notes.append(head.stopped)
    made = previewer.finish(is_whole=head.is_whole, notes=notes)
    return Preview(**{field.name: getattr(made, field.name) for field in fields(made)})


class Head:
    """Iterate over the first lines of a source, in batches as a worker has them; a line beyond max_line_bytes comes alone. Single use.

    is_whole: it had no other lines; stopped: why it was not read on, in words. Both are known at the end.
    Raises:   what open_source() raises. SourceDamaged: the damage is before the end of the first line.
    Guarantee: reads little more than the lines; memory is a batch, or one line.
    """

    def __init__(self, path: str, n_lines: int, max_line_bytes: int) -> None:
        self._path, self._n_lines, self._max_line_bytes = path, n_lines, max_line_bytes
        self.is_whole, self.stopped = False, ""

    def __iter__(self) -> Iterator[LineBatch | LongLine]:
        left = self._n_lines
        with closing(open_source(self._path)) as fileobj:
            for piece in self._pieces(open_archive(fileobj), min(self._n_lines, BATCH_LINES)):
                if left == 0:
                    return  # there is another line
                if isinstance(piece, LineBatch) and piece.n_lines > left:
                    yield LineBatch(piece.data[: piece.offset_of(left) - piece.byte_offset], piece.first_line_no, piece.byte_offset, left)
                    return
                yield piece
                left -= piece.n_lines if isinstance(piece, LineBatch) else 1
        self.is_whole = not self.stopped

    def _pieces(self, archive: Archive, batch_lines: int) -> Iterator[LineBatch | LongLine]:
        cutter = Cutter(batch_lines, BATCH_BYTES, self._max_line_bytes)
        parts: list[memoryview] = []
        has_some = False
        blocks = iter(archive)
        while True:
            try:
                block = next(blocks, None)
            except SourceDamaged as exc:
                steps, block = cutter.finish(whole_only=True), None
                self.stopped = f"{exc}; what is before it would be loaded as far as it is proved whole"
                if not has_some and not steps:
                    raise
            else:
                steps = cutter.finish() if block is None else cutter.feed(block)
            for step in steps:
                if isinstance(step, Cut):
                    has_some = True
                    yield self._cut(step, parts)
                    parts.clear()
                elif not isinstance(step, Overlong) or sum(map(len, parts)) < KEPT_BYTES:
                    parts.append(step.data)
            if block is None:
                return
            if steps and isinstance(steps[-1], Overlong):
                told = f"line {cutter.line_no:,} has more than max_line_bytes ({self._max_line_bytes:,})"
                self.stopped = f"{told}: it would be refused; what is behind it was not read"
                return

    def _cut(self, cut: Cut, parts: list[memoryview]) -> LineBatch | LongLine:
        data = b"".join(parts)
        if not cut.oversized:
            return LineBatch(data, cut.first_line, cut.byte_offset, cut.n_lines)
        reason = f"the line has {cut.raw_bytes:,} bytes, more than max_line_bytes"
        return LongLine(cut.first_line, cut.byte_offset, data[:KEPT_BYTES], cut.raw_bytes, reason)
