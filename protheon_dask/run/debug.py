"""A reject, a dead letter or any line, debugged here: the same bytes through the same code, and a stop where it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, cast

from protheon_dask import words
from protheon_dask.errors import ConfigError, InvariantError, NotFound
from protheon_dask.ledger import chunks, dead_letters, replays, reports, runs
from protheon_dask.ledger.chunks import FoundChunk
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.ledger.migrate import check_current
from protheon_dask.pipelines.batches import BatchForm
from protheon_dask.pipelines.pack import PackedPipeline, unpack
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.preview import Preview, Previewer
from protheon_dask.pipelines.retrace import retrace_chunk, retrace_line
from protheon_dask.run.post_mortem import is_interactive, own_frames, place_of, stop_at
from protheon_dask.run.probe import Death, probe
from protheon_dask.run.refetch import chunk_lines, whole_line
from protheon_dask.run.submitting import pipeline_of
from protheon_dask.sink.foresee import is_sendable
from protheon_dask.telemetry.previewed import beginning, rows_html, rows_text
from protheon_dask.workspace.cut import CR, LF, LineBatch

APPLICATION: Final = "protheon-debug"
WHOLE: Final = ("id", "load_id", "path", "task_id", "line", "byte_offset", "part", "reason", "sqlstate", "raw", "raw_bytes")
"""Columns of a reject that are needed where there is no database to ask."""
DEADLY: Final = ("WorkerDied", "Stalled")
"""Error classes of letters whose chunk may end, or hang, whatever process runs it: a child tries it first."""
ALONE: Final = " (given to the batch function alone: a frame has then the columns of this line only)"
LINE_CHARS: Final = 200
"""Of a line in a note: enough to know it by."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What of a cluster is reached from here. url: of its database, None: not known; address: of its broker; key: the cluster's."""

    url: str | None
    address: str
    key: bytes | None


@dataclass(frozen=True, slots=True, repr=False)
class Debugged:
    """What debugging found where it did not raise: the code passes here, or the debugger stopped in it.

    told: in words. error: what the debugger stopped at. recorded: how the failure was written down, with its traceback if it has one.
    made: the rows of the line.
    """

    told: tuple[str, ...]
    error: BaseException | None = None
    recorded: str = ""
    made: Preview | None = None

    def __repr__(self) -> str:
        drawn = [] if self.made is None else [rows_text(self.made)]
        recorded = ["", "recorded:", *map(words.visible, self.recorded.splitlines())] if self.recorded else []
        return "\n".join([*self.told, *recorded, *drawn])

    def _repr_html_(self) -> str:
        from html import escape

        parts = [f"<p>{escape(told)}</p>" for told in self.told]
        if self.recorded:
            recorded = "\n".join(map(words.visible, self.recorded.splitlines()))
            parts.append(f'<p>recorded:</p><pre style="white-space: pre-wrap">{escape(recorded)}</pre>')
        return "".join(parts) + (rows_html(self.made) if self.made is not None else "")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line at hand. data: as it stands in the source, without its LF; recorded: why it was refused, "" where it was not."""

    pipeline: Pipeline
    context: ChunkContext
    what: str
    path: str
    line_no: int
    byte_offset: int
    data: bytes
    part: str | None = None
    recorded: str = ""
    sqlstate: str | None = None


def debug(
    run_id: int,
    reach: Reach,
    what: object = None,
    *,
    reject: int | None = None,
    task: int | None = None,
    line: int | None = None,
    path: str | os.PathLike[str] | None = None,
    pipeline: str | Pipeline | None = None,
    pdb: bool | None = None,
) -> Debugged:
    """Run a pipeline here, in this process, on the bytes that it failed on, and stop or raise where it fails.

    what:     a row of run.rejects() or run.dead_letters(); a number is reject's.
    reject, task, line: or its number: of a reject, of a dead letter's task, or of any line of the run's one file (else of path).
    path:     where this process finds the source, if it is elsewhere than the master has it.
    pipeline: a mended one; None: the run's own, as it was submitted.
    pdb:      stop in the debugger at the line of the code that fails; None: if a person can answer it here. It returns when they quit.
    Raises:   what the pipeline raises, with notes that show the line, where the debugger is not used or no code of a person's is at
              fault. ConfigError, NotFound: what is meant, the bytes or the pipeline cannot be had here. LedgerUnavailable.
    Guarantee: writes nothing. The bytes are those that were cut, by checksum; the code is what was submitted: what travelled by value
              is run only if the cluster's key signed it.
    """
    given = _given(what, reject, task, line)
    place = None if path is None else os.fspath(path)
    __tracebackhide__ = True
    if reach.url is None:
        return _on_line(_line_of_row(given, pipeline, place), pdb)
    with opened(reach.url, application=APPLICATION) as conn:
        check_current(conn)
        row = _row(conn, run_id, given)
        if row is None:
            found = chunks.of_line(conn, _load_of(conn, run_id, place), cast("int", given.number))
            case: _Line | None = None
        elif "died_at" in row:
            if row["chunk_no"] is None:
                raise ConfigError(f"task {row['task_id']} is no chunk: it runs {row['handler']}; call that function yourself")
            found, case = chunks.of_task(conn, int(row["task_id"])), None
        else:
            found = chunks.of_task(conn, int(row["task_id"]))
            case = _rejected_line(conn, found, row, _chosen(conn, found, pipeline, reach.key), place)
        if case is not None:
            chosen, context, numbers = case.pipeline, case.context, None
        else:
            chosen, context = _chosen(conn, found, pipeline, reach.key), _context(conn, found)
            numbers = _numbers(conn, found)
    if case is not None:
        return _on_line(case, pdb)
    if row is None:
        with chunk_lines(found, reach.address, place) as batches:
            case = _any_line(found, chosen, context, batches, cast("int", given.number))
        return _on_line(case, pdb)

    @contextmanager
    def reading() -> Iterator[Iterator[_Batch]]:
        with chunk_lines(found, reach.address, place) as batches:
            yield _as_in_source(batches, numbers)

    return _Chunk(row, chosen, context, reading).debug(pdb)


# --- what is meant ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    kind: str  # row, reject, task or line
    number: int | None = None
    row: Mapping[str, Any] | None = None


def _given(what: object, reject: int | None, task: int | None, line: int | None) -> _Given:
    numbers = {"reject": reject, "task": task, "line": line}
    named = [_Given(kind, int(number)) for kind, number in numbers.items() if number is not None]
    if what is not None:
        named.append(_Given("reject", int(what)) if _is_number(what) else _Given("row", row=_plain_row(what)))
    if len(named) != 1:
        raise ConfigError("say what to debug: a row of run.rejects() or run.dead_letters(), or one of reject=, task= and line=")
    return named[0]


def _is_number(what: object) -> TypeGuard[int]:
    return hasattr(what, "__index__") and not isinstance(what, bool)


def _plain_row(what: Any) -> dict[str, Any]:
    """A row of a report as a dict of Python's own values, from a dict, a Series, or a DataFrame of one row."""
    if hasattr(what, "iloc") and getattr(what, "ndim", 0) == 2:
        if len(what) != 1:
            raise ConfigError(f"{len(what)} rows are given: give one, such as run.rejects().iloc[0]")
        what = what.iloc[0]
    row = {str(name): _plain(value) for name, value in what.items()} if hasattr(what, "items") else {}
    if not ({"task_id", "died_at"} <= row.keys() or {"id", "byte_offset"} <= row.keys()):
        raise ConfigError(f"{type(what).__name__} is no row of run.rejects() or run.dead_letters(): give run.rejects().iloc[0]")
    return row


def _plain(value: Any) -> Any:
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return None
    return value.item() if hasattr(value, "item") and not isinstance(value, bytes) else value


def _row(conn: Connection, run_id: int, given: _Given) -> Mapping[str, Any] | None:
    """What is meant, whole, as the ledger has it now; None: a line by its number."""
    kind, number, attempt_no = given.kind, given.number, None
    if given.row is not None:
        is_letter = "died_at" in given.row
        kind, number = ("task", given.row["task_id"]) if is_letter else ("reject", given.row["id"])
        attempt_no = given.row.get("attempt_no") if is_letter else None
    if kind == "line":
        return None
    if kind == "reject":
        found = reports.rejects(conn, run_id, 1, number)
        if not found:
            raise NotFound(f"run {run_id} has no reject {number}: run.rejects() lists them; a dead letter is task=..")
        return found[0]
    letters = dead_letters.listed(conn, None, task_id=number, everything=True)
    if not letters:
        raise NotFound(f"task {number} is not dead and never was: run.dead_letters() lists them")
    return next((letter for letter in letters if letter["attempt_no"] == attempt_no), letters[0])


def _load_of(conn: Connection, run_id: int, path: str | None) -> int:
    """The load of the run's file that is meant by path, or of its only one."""
    files = reports.files(conn, run_id)
    if path is not None:
        files = [file for file in files if file["path"] == path or file["path"].rpartition("/")[2] == path.rpartition("/")[2]]
    if len({file["load_id"] for file in files}) != 1:
        which = "say which by path=" if path is None else f"{len(files)} of them are called {path}"
        raise ConfigError(f"run {run_id} has {words.counted(len(reports.files(conn, run_id)), 'file')}: {which}; run.files() lists them")
    return int(files[0]["load_id"])


# --- the code and the bytes -------------------------------------------------------------------------------------------------


def _chosen(conn: Connection, found: FoundChunk, pipeline: str | Pipeline | None, key: bytes | None) -> Pipeline:
    """The pipeline that is given, or that of the run which had the chunk last."""
    if pipeline is not None:
        return pipeline_of(pipeline, paths=[found.path])
    packed = PackedPipeline(**runs.pipeline_of(conn, found.run_id))
    if packed.object and key is None:
        raise ConfigError(
            f"pipeline {packed.name} came by value, and the cluster's key, which signed it, is not known here: give pipeline="
        )
    return unpack(packed, key)


def _context(conn: Connection, found: FoundChunk) -> ChunkContext:
    """What the worker knew of the chunk: of a replay the load and the path of its lines."""
    if found.replay_of is None:
        return ChunkContext(found.load_id, found.task_id, found.path)
    return ChunkContext(found.replay_of, found.task_id, runs.split_of(conn, found.replay_of)[0].path)


def _rejected_line(conn: Connection, found: FoundChunk, row: Mapping[str, Any], chosen: Pipeline, path: str | None) -> _Line:
    data = bytes(row["raw"])
    if row["raw_bytes"] > len(data):
        # Of a replay, too, it is in the source of the load whose line it was.
        home = chunks.of_line(conn, int(row["load_id"]), int(row["line"]))
        data = whole_line(home, path, int(row["byte_offset"]), data, int(row["raw_bytes"]))
    return _of_row(row, chosen, _context(conn, found), data)


def _line_of_row(given: _Given, pipeline: str | Pipeline | None, path: str | None) -> _Line:
    """A reject from its row alone, where there is no database to ask."""
    way_on = "protheon.connect(.., into='postgresql://user@host:5432/database') gives it"
    if given.row is None or "died_at" in given.row:
        raise ConfigError(f"the database of the cluster is not known here, which says where the bytes are: {way_on}")
    row = given.row
    if pipeline is None:
        raise ConfigError(f"the database of the cluster, which has the run's pipeline, is not known here: give pipeline=, or {way_on}")
    if missing := [name for name in WHOLE if name not in row]:
        raise ConfigError(
            f"the row lacks {', '.join(missing)}, and the database of the cluster is not known here: give run.rejects().iloc[0]"
        )
    if row["raw_bytes"] > len(row["raw"]):
        raise ConfigError(f"the row has 64 KiB of the line's {row['raw_bytes']:,} bytes, and the database is not known here: {way_on}")
    chosen = pipeline_of(pipeline, paths=[path or row["path"]])
    return _of_row(row, chosen, ChunkContext(int(row["load_id"]), int(row["task_id"]), row["path"]), bytes(row["raw"]))


def _of_row(row: Mapping[str, Any], chosen: Pipeline, context: ChunkContext, data: bytes) -> _Line:
    state = f" (SQLSTATE {row['sqlstate']})" if row["sqlstate"] and row["sqlstate"] not in row["reason"] else ""
    return _Line(
        pipeline=chosen,
        context=context,
        what=f"reject {row['id']}",
        path=row["path"],
        line_no=int(row["line"]),
        byte_offset=int(row["byte_offset"]),
        data=data.removesuffix(LF),  # one that was beyond max_line_bytes was kept with its own
        part=row["part"],
        recorded=row["reason"] + state,
        sqlstate=row["sqlstate"],
    )


def _any_line(found: FoundChunk, chosen: Pipeline, context: ChunkContext, batches: Iterator[LineBatch], line_no: int) -> _Line:
    for batch in batches:
        if line_no in batch.line_nos:
            index = line_no - batch.first_line_no
            place = (context.path, line_no, batch.offset_of(index))
            return _Line(chosen, context, f"line {line_no:,}", *place, batch.raw_line(index))
    raise NotFound(f"chunk {found.task_id} has no line {line_no:,}")


def _numbers(conn: Connection, found: FoundChunk) -> Sequence[tuple[int, int]] | None:
    """Of each line of a replay's chunk its number and offset in the source; None: they are those of the file that was cut."""
    if found.replay_of is None:
        return None
    manifest = found.manifest
    places = replays.places(conn, found.load_id, manifest.first_line, manifest.n_lines)
    return [(place.line_no, place.byte_offset) for place in places]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Lines as a pipeline gets them, and where each one stands in the source."""

    lines: Sequence[bytes]
    places: Sequence[tuple[int, int]]

    @property
    def line_nos(self) -> list[int]:
        return [line_no for line_no, _ in self.places]


def _as_in_source(batches: Iterator[LineBatch], numbers: Sequence[tuple[int, int]] | None) -> Iterator[_Batch]:
    n_before = 0
    for batch in batches:
        if numbers is None:
            yield _Batch(batch.lines, [(line_no, batch.offset_of(at)) for at, line_no in enumerate(batch.line_nos)])
        else:
            lines, places = batch.lines, numbers[n_before : n_before + batch.n_lines]
            if batch.first_line_no == 1 and places[0][0] > 1:  # the mark at its beginning is its own: a BOM is line 1's alone
                lines = [batch.raw_line(0).removesuffix(CR), *lines[1:]]
            yield _Batch(lines, places)
        n_before += batch.n_lines


# --- on the spot ------------------------------------------------------------------------------------------------------------


def _on_line(case: _Line, pdb: bool | None) -> Debugged:
    __tracebackhide__ = True  # IPython's word for a frame that tells a person nothing
    batch = LineBatch(case.data + LF, case.line_no, case.byte_offset, 1)
    [given] = batch.lines
    seen = retrace_line(case.pipeline, case.context, given, case.line_no, case.part)
    where = _where(case.path, case.line_no, case.byte_offset, case.data)
    recorded = f"{case.what} was recorded as: {words.visible(case.recorded)}" if case.recorded else ""
    if isinstance(case.pipeline.form, BatchForm):
        where += ALONE
    if seen.error is not None:
        return _stop_or_raise(seen.error, [where, *([recorded] if recorded else [])], pdb)
    previewer = Previewer(case.pipeline, case.path, lambda *_: ())
    previewer.feed(batch)
    made = previewer.finish(is_whole=False)
    passes = f"pipeline {case.pipeline.name} passes it here"
    if case.sqlstate is not None:
        passes += f": {_who_refused(case.pipeline, made)} refused what it made"
    elif case.part is not None:
        passes += f", and refuses no part {words.visible(case.part)} of it"
    elif made.filtered or made.blank:
        passes += f": it is {'filtered' if made.filtered else 'blank'}"
    return Debugged((where, passes), recorded=f"{case.what}: {case.recorded}" if case.recorded else "", made=made)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A dead letter at hand. reading: the batches of its chunk, as often as they are wanted."""

    row: Mapping[str, Any]
    pipeline: Pipeline
    context: ChunkContext
    reading: Callable[[], AbstractContextManager[Iterator[_Batch]]]

    def debug(self, pdb: bool | None) -> Debugged:
        __tracebackhide__ = True
        if self.row["error_class"] in DEADLY:
            with self.reading() as batches:
                ended = probe(self.pipeline, self.context, ((batch.lines, batch.line_nos) for batch in batches))
            if isinstance(ended, Death):
                lines = range(ended.index, ended.index + ended.n_lines)
                where = self._lines(lines) if lines else "before the first line, as the pipeline is imported and opened"
                return Debugged((where, f"there the pipeline {ended.how}, in a process of its own", *self._what()), recorded=ended.said)
            if ended == "passed":
                return self._passes()
        with self.reading() as batches:
            broken = retrace_chunk(self.pipeline, self.context, ((batch.lines, batch.line_nos) for batch in batches))
        if broken is None:
            return self._passes()
        return _stop_or_raise(broken.error, [self._lines(broken.indexes), *self._what()], pdb)

    def _what(self) -> tuple[str, str]:
        row = self.row
        last_line = int(row["first_line"]) + int(row["n_lines"]) - 1
        chunk = f"chunk {words.count(int(row['chunk_no']))} of {words.visible(row['path'])}"
        lines = f"lines {words.count(int(row['first_line']))} to {words.count(last_line)}"
        return f"task {row['task_id']}: {chunk}, {lines}", f"it is dead ({row['reason']}) by: {words.visible(self._told)}"

    @property
    def _told(self) -> str:
        error_class, message = self.row["error_class"] or "", self.row["message"] or ""
        return message if message.startswith(error_class) else f"{error_class}: {message}"

    def _passes(self) -> Debugged:
        n_lines = words.counted(int(self.row["n_lines"]), "line")
        passes = f"its {n_lines} pass here: the cause was outside of pipeline {self.pipeline.name}'s code, or is mended"
        return Debugged((*self._what(), passes), recorded=self.row["traceback"] or self._told)

    def _lines(self, indexes: Sequence[int]) -> str:
        """Lines of the chunk (from 0) in words; of several the first one is shown."""
        n_before = 0
        with self.reading() as batches:
            for batch in batches:
                if indexes[0] < n_before + len(batch.lines):
                    at = indexes[0] - n_before
                    first = _where(self.row["path"], *batch.places[at], batch.lines[at])
                    if len(indexes) == 1:
                        return first
                    last_line = batch.places[indexes[-1] - n_before][0]
                    return f"lines {batch.places[at][0]:,} to {last_line:,}, together or one of them; the first: {first}"
                n_before += len(batch.lines)
        raise InvariantError(f"chunk of task {self.row['task_id']} has {n_before} lines, and line {indexes[0]} of them failed")


def _who_refused(pipeline: Pipeline, made: Preview) -> str:
    rows = [(table, row) for table, shown in zip(pipeline.tables, made.tables, strict=True) for row in shown.rows]
    is_ours = not all(is_sendable(table, row) for table, row in rows)
    return "Protheon's check of values against their columns, before PostgreSQL saw them," if is_ours else "PostgreSQL"


def _where(path: str, line_no: int, byte_offset: int, data: bytes) -> str:
    return f"line {line_no:,} of {words.visible(path)}, byte {byte_offset:,}: {beginning(data, len(data), LINE_CHARS)}"


def _stop_or_raise(error: BaseException, notes: Sequence[str], pdb: bool | None) -> Debugged:
    """Show the error where it was raised to a person, or raise it as it is, with notes, from that person's code on."""
    __tracebackhide__ = True
    for note in notes:
        error.add_note(note)
    frames = own_frames(error)
    if frames is None:
        raise error
    if not (is_interactive() if pdb is None else pdb):
        raise error.with_traceback(frames)
    raised = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    told = (*notes, f"{words.visible(raised)} ({place_of(frames)})")
    print(*told, sep="\n")
    stop_at(frames)
    return Debugged(told, error=error)
