"""``verify``: the ledger's proof, and with ``--deep`` a look into the tables themselves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from protheon_dask.errors import TargetRefused
from protheon_dask.ledger import reports, runs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.ledger.migrate import check_current
from protheon_dask.pipelines.table import PROVENANCE, Table
from protheon_dask.sink.catalog import describe, read_columns, read_relation
from protheon_dask.sink.checksum import Comparable, comparable
from protheon_dask.sink.readback import LINE_NO, LOAD_ID, Standing, names_lines, read_back
from protheon_dask.telemetry import card
from protheon_dask.words import counted

LEDGER_CHECKS = (
    "manifests follow each other without a gap",
    "each chunk has one attempt that succeeded",
    "lines = loaded + filtered + rejected + blank, for each chunk",
    "rows offered = inserted + updated + ignored, for each table and chunk",
    "each rejected line is kept",
    "each replayed line is accounted for by one chunk of its replay, and no line is refused twice",
)

TABLE_CHECK = "rows that are in the tables, chunk by chunk"

SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
NO_TIMEOUT = "SET LOCAL statement_timeout = 0"
"""Reading a large table takes as long as it takes; a time-out of the role is for others."""
IN_UTF8 = "SET LOCAL client_encoding = 'UTF8'"

OF_CHUNK = ("load_id", "named_load_id", "path", "undone", "state", "chunk_no", "first_line", "n_lines")
"""What is the same of a chunk for each of its tables."""

MAX_STRAYS = 20
"""Chunks that no ledger knows, of one table, that are named one by one."""


class Verdict(StrEnum):
    """What is known of a table's rows."""

    STANDS = "stands"
    DIFFERS = "differs"
    NOT_LOOKED_AT = "not looked at"


@dataclass(frozen=True, slots=True)
class TableCheck:
    """What was found out about one table. checked: False: it could not be looked at; why_not says why."""

    table: str
    checked: bool
    verdict: Verdict
    findings: tuple[str, ...] = ()
    why_not: str | None = None
    lacks_provenance: bool = False  # that is why
    n_rows: int = 0  # of the run that are there
    n_chunks: int = 0  # whose rows were counted
    n_summed: int = 0  # of these: whose values were compared too
    not_compared: tuple[str, ...] = ()  # columns


@dataclass(frozen=True, slots=True)
class Verification:
    """What verify proved, and what it found; no finding: every line of every file is accounted for once.

    differs: those of checked that do not hold, each with its findings.
    notes:   what is no fault and yet to be known: loads that were undone, what could not be checked.
    tables:  with deep only.
    """

    run_id: int
    findings: tuple[str, ...]
    checked: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tables: tuple[TableCheck, ...] = ()
    differs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Verification:
        """Of what ``dataclasses.asdict`` gave, over JSON."""
        return msgspec.convert(told, cls)

    def __repr__(self) -> str:
        return card.verification_text(self)

    def _repr_html_(self) -> str:
        return card.verification_html(self)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One chunk and what it left in one table."""

    load_id: int
    named_load_id: int
    path: str
    undone: bool
    state: str
    chunk_no: int
    first_line: int
    n_lines: int
    expected: int = 0
    updated: int = 0
    ignored: int = 0
    checksum: int | None = None
    compared: int | None = None

    @property
    def place(self) -> str:
        last = self.first_line + self.n_lines - 1
        return f"chunk {self.chunk_no} of {self.path} (lines {self.first_line:,} to {last:,})"


@dataclass(slots=True)
class _Words:
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(
    url: str, run_id: int | None = None, *, deep: bool = False, on_rows: Callable[[str, int], None] = lambda *_: None
) -> Verification:
    """Prove that every line of a run is accounted for once; deep: and that its rows are in their tables, as they were sent.

    on_rows:   told a table's name and how many of its rows were read, now and then.
    Raises:    NotFound, MigrationPending, LedgerUnavailable.
    Guarantee: reads only, in one snapshot, whatever is loaded meanwhile.
    """
    with opened(url, application="protheon-verify") as conn:
        check_current(conn)
        return verify_on(conn, run_id or runs.latest_run(conn), deep=deep, on_rows=on_rows)


def verify_on(conn: Connection, number: int, *, deep: bool, on_rows: Callable[[str, int], None] = lambda *_: None) -> Verification:
    """The same of a run, on a connection that is in no transaction, to a ledger that is current."""
    for statement in (SNAPSHOT, NO_TIMEOUT, IN_UTF8):
        conn.execute(statement)
    of_ledger = reports.verify(conn, number)
    words = _Words([finding for _, finding in of_ledger])
    for row in reports.undone(conn, number):
        of = f"load {row['load_id']} ({row['path']})"
        if row["undone_at"] is None:
            words.findings.append(f"{of}: its undo was begun and has not ended: protheon undo {row['load_id']} goes on with it")
        else:
            words.notes.append(f"{of}: undone at {row['undone_at']:%Y-%m-%d %H:%M:%S} UTC: it is left aside")
    tables = tuple(_look(conn, number, words, on_rows)) if deep else ()
    conn.execute("COMMIT")
    differs: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for check_no, finding in of_ledger:
        differs[LEDGER_CHECKS[check_no - 1]] += (finding,)
    if of_tables := tuple(finding for table in tables if table.checked for finding in table.findings):
        differs[TABLE_CHECK] = of_tables
    checked = LEDGER_CHECKS + ((TABLE_CHECK,) if any(table.checked for table in tables) else ())
    return Verification(number, tuple(words.findings), checked, tuple(words.notes), tables, dict(differs))


def _look(conn: Connection, run_id: int, words: _Words, on_rows: Callable[[str, int], None]) -> Iterator[TableCheck]:
    """Check each table of the run's pipeline."""
    pipeline = runs.pipeline_of(conn, run_id)
    known: dict[int, _Chunk] = {}
    by_table: dict[str, dict[int, _Chunk]] = defaultdict(dict)
    for row in reports.rows_by_chunk(conn, run_id):
        task_id, table = row.pop("task_id"), row.pop("table_name")
        chunk = _Chunk(**{name: row[name] for name in OF_CHUNK})
        known.setdefault(task_id, chunk)
        if table is not None:
            by_table[table][task_id] = _Chunk(**row)
    for value in json.loads(pipeline["tables_json"]):
        table = Table.from_json(value)
        chunks = {**known, **by_table[table.name]}
        why_not = _why_not_checkable(table, str(pipeline["reference"]))
        if why_not is not None:
            words.notes.append(f"table {table.name}: not checkable: {why_not}")
            lacks = table.on_conflict != "add"
            yield TableCheck(table.name, False, Verdict.NOT_LOOKED_AT, why_not=why_not, lacks_provenance=lacks)
            continue
        by_line = names_lines(table, str(pipeline["reference"]))
        if (lost := _lost(conn, table, (LOAD_ID, LINE_NO) if by_line else (PROVENANCE,))) is not None:
            is_awaited = any(chunk.expected for chunk in chunks.values())
            told = f"table {table.name} {lost}: its rows cannot be looked for"
            (words.findings if is_awaited else words.notes).append(told)
            verdict = Verdict.DIFFERS if is_awaited else Verdict.NOT_LOOKED_AT
            yield TableCheck(table.name, False, verdict, (told,) if is_awaited else (), lost)
            continue
        yield _Look(conn, table, chunks, words, on_rows).check(by_line=by_line)


def _lost(conn: Connection, table: Table, needed: Sequence[str]) -> str | None:
    """What is not there any more of a table: all of it, or columns."""
    relation = read_relation(conn, table.schema, table.relation)
    if relation is None:
        return "does not exist any more"
    found = {column.name for column in read_columns(conn, relation.oid)}
    lost = [name for name in dict.fromkeys([*(column.name for column in table.columns), *needed]) if name not in found]
    return f"has lost column {', '.join(map(repr, lost))}" if lost else None


def _why_not_checkable(table: Table, reference: str) -> str | None:
    if table.on_conflict == "add":
        return "its rows are sums of many chunks (on_conflict='add')"
    if not table.provenance and not names_lines(table, reference):
        return "the pipeline keeps no provenance (provenance=True)"
    return None


def never_compared(conn: Connection, tables: Sequence[Table], reference: str) -> list[str]:
    """Of which tables checksums that are kept now can prove nothing, or nothing that matters, each with why; the tables exist."""
    told = []
    for table in tables:
        what = comparable(conn, *describe(conn, [table]))
        if (why_not := _why_not_checkable(table, reference)) is not None:
            told.append(f"table {table.name}: its checksums can never be compared: {why_not}")
        elif what.triggers:
            told.append(f"table {table.name}: values are not compared: its triggers may change rows ({', '.join(what.triggers)})")
        elif set(what.columns) <= set(table.primary_key):
            told.append(f"table {table.name}: not compared: {', '.join(what.left_out)}")
    return told


class _Look:
    """One table against what the ledger says of it."""

    def __init__(
        self, conn: Connection, table: Table, chunks: Mapping[int, _Chunk], words: _Words, on_rows: Callable[[str, int], None]
    ) -> None:
        self._conn, self._table, self._chunks, self._words, self._on_rows = conn, table, chunks, words, on_rows
        self._name = table.name
        self._moved = 0  # rows that later chunks may have replaced

    def check(self, *, by_line: bool) -> TableCheck:
        """Read the table once and compare."""
        n_before = len(self._words.findings)
        inserted, updated, unmarked = reports.rows_of_table(self._conn, self._name)
        what = self._comparable() if not unmarked else None
        if unmarked:
            why = f"loads of a pipeline without provenance replaced {counted(unmarked, 'row')} of it, or added to them"
            self._note(f"counted; values not compared: {why}")
        may_move = not by_line and updated > 0  # by whatever pipeline's rule
        standing = read_back(
            self._conn,
            self._table,
            what.columns if what else (),
            {chunk.named_load_id if by_line else chunk.load_id for chunk in self._chunks.values()},
            by_line=by_line,
            whole=may_move,
            on_rows=lambda n: self._on_rows(self._name, n),
        )
        if may_move:
            self._find_lost(inserted, standing)
        n_summed, n_rows = 0, 0
        for task_id, chunk in self._chunks.items():
            there = standing.get(task_id, Standing(0, 0))
            n_rows += there.n_rows
            if self._count(chunk, there.n_rows, may_move=may_move) and what is not None:
                n_summed += self._compare(chunk, there, what)
        self._find_strays(standing)
        if self._moved:
            self._note(f"{counted(self._moved, 'row')} of this run may have been replaced by later chunks: their chunks were not compared")
        if what is not None:
            self._tell(what, n_summed)
        findings = tuple(self._words.findings[n_before:])
        return TableCheck(
            self._name,
            True,
            Verdict.DIFFERS if findings else Verdict.STANDS,
            findings,
            n_rows=n_rows,
            n_chunks=len(self._chunks),
            n_summed=n_summed,
            not_compared=what.left_out if what else (),
        )

    def _comparable(self) -> Comparable | None:
        """None: the table was altered since; its rows can be counted, not compared."""
        try:
            return comparable(self._conn, *describe(self._conn, [self._table]))
        except TargetRefused as exc:
            self._words.notes.append(f"{exc} (its rows are counted, their values not compared)")
            return None

    def _find(self, text: str) -> None:
        self._words.findings.append(f"table {self._name}: {text}")

    def _note(self, text: str) -> None:
        self._words.notes.append(f"table {self._name}: {text}")

    def _count(self, chunk: _Chunk, n_rows: int, *, may_move: bool) -> bool:
        """Compare numbers of rows; True: they agree."""
        difference = n_rows - chunk.expected
        if difference == 0:
            return True
        if chunk.undone:
            self._find(f"{chunk.place} was undone, and {counted(n_rows, 'row')} of it {_are(n_rows)} there")
        elif chunk.state != "succeeded":
            self._find(f"{chunk.place} was not loaded (it is {chunk.state}), and {counted(n_rows, 'row')} of it {_are(n_rows)} there")
        elif difference < 0 and may_move:
            self._moved -= difference
        else:
            how = f"{-difference:,} {_are(-difference)} missing" if difference < 0 else f"{difference:,} too many"
            were = "was" if chunk.expected == 1 else "were"
            self._find(f"{chunk.place}: {counted(chunk.expected, 'row')} {were} loaded, {n_rows:,} {_are(n_rows)} there: {how}")
        return False

    def _compare(self, chunk: _Chunk, there: Standing, what: Comparable) -> bool:
        """Compare values where that can be; True: it could."""
        if chunk.checksum is None or chunk.compared != what.signature or chunk.ignored or chunk.undone:
            return False
        if there.checksum != chunk.checksum:
            self._find(
                f"{chunk.place}: the {counted(there.n_rows, 'row')} that {_are(there.n_rows)} there do not hold the values that were loaded"
            )
        return True

    def _find_lost(self, inserted: int, standing: Mapping[int | None, Standing]) -> None:
        """Rows that later chunks replaced are theirs: what no replacement explains is the sum over all chunks."""
        n_there = sum(there.n_rows for there in standing.values())
        if n_there < inserted:
            lost = inserted - n_there
            self._find(
                f"all loads together inserted {counted(inserted, 'row')}, {n_there:,} {_are(n_there)} there: {lost:,} or more missing"
            )

    def _find_strays(self, standing: Mapping[int | None, Standing]) -> None:
        strays = {task_id: there for task_id, there in standing.items() if task_id not in self._chunks}
        if strays:
            known = reports.known_chunks(self._conn, [task_id for task_id in strays if task_id is not None])
            strays = {task_id: there for task_id, there in strays.items() if task_id not in known}
        for task_id, there in list(strays.items())[:MAX_STRAYS]:
            of = "no chunk at all" if task_id is None else f"chunk task {task_id}"
            self._find(f"{counted(there.n_rows, 'row')} {_are(there.n_rows)} of {of}, which this ledger does not know")
        if len(strays) > MAX_STRAYS:
            rest = list(strays.values())[MAX_STRAYS:]
            self._find(
                f"{counted(sum(there.n_rows for there in rest), 'row')} are of {len(rest):,} more chunks that this ledger does not know"
            )

    def _tell(self, what: Comparable, n_summed: int) -> None:
        """Say what was not compared, and why."""
        loaded = [chunk for chunk in self._chunks.values() if chunk.expected]
        if what.triggers:
            self._note(f"counted; values not compared: its triggers may change rows ({', '.join(what.triggers)})")
        elif not what.columns:
            self._note(f"counted; values not compared: none of its columns comes back as it is sent ({', '.join(what.left_out)})")
        elif loaded and all(chunk.checksum is None for chunk in loaded):
            more = ""
            if what.left_out and set(what.columns) <= set(self._table.primary_key):
                more = f", which would not compare {', '.join(what.left_out)} either"
            elif what.left_out:
                more = f", which compares {', '.join(what.columns)}, but not {', '.join(what.left_out)}"
            self._note(f"counted; values not compared: the load was made without --checksum{more}")
        else:
            if n := sum(chunk.checksum is None for chunk in loaded):
                self._note(f"{counted(n, 'chunk')} counted; values not compared: they were loaded without --checksum")
            if n := sum(chunk.checksum is not None and chunk.compared != what.signature for chunk in loaded):
                self._note(f"{counted(n, 'chunk')} counted; values not compared: the table's columns are not what they were")
            if n := sum(chunk.ignored > 0 and chunk.checksum is not None for chunk in loaded):
                self._note(f"{counted(n, 'chunk')} counted; values not compared: rows of them were ignored by the table's conflict rule")
            if what.left_out and n_summed:
                self._note(f"not compared: {', '.join(what.left_out)}")


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
