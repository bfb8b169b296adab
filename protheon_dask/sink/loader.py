"""A chunk's rows into its tables, batch by batch, within the caller's transaction.

The fast way is one binary COPY a table and batch, between savepoints. What the database refuses is found and taken out,
line by whole line; rows that meet stored keys go by a staging table and one ``INSERT .. ON CONFLICT``. Rows of shared
tables are always staged, and merged last, in :meth:`ChunkLoader.finish`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from protheon_dask import failpoints
from protheon_dask.errors import InvariantError, SchemaViolation, TargetAltered
from protheon_dask.model import StageClock, TableCount
from protheon_dask.pipelines.table import BatchRows
from protheon_dask.postgres import is_line_fault, reason_of, table_of
from protheon_dask.sink.catalog import Connection, Target, altered, dropping_triggers
from protheon_dask.sink.checksum import Comparable, signed
from protheon_dask.sink.copy import CopyWriter, faulty_rows
from protheon_dask.sink.search import find_refused
from protheon_dask.sink.staging import Staging

# Several statements travel as one message: one round trip. Deferrable constraints wait for the batch's end, not longer.
# Every rollback says DEFERRED again: one to an outer savepoint does not restore what a released inner one had set (measured).
OPEN_BATCH: Final = "SET CONSTRAINTS ALL DEFERRED; SAVEPOINT protheon_batch"
CLOSE_BATCH: Final = "RELEASE SAVEPOINT protheon_batch"  # after the batch's constraints were checked
UNDO_BATCH: Final = "ROLLBACK TO SAVEPOINT protheon_batch; SET CONSTRAINTS ALL DEFERRED"
OPEN_TRY: Final = "SAVEPOINT protheon_try"
KEEP_TRY: Final = "RELEASE SAVEPOINT protheon_try; SET CONSTRAINTS ALL DEFERRED; SAVEPOINT protheon_try"
UNDO_TRY: Final = "ROLLBACK TO SAVEPOINT protheon_try; SET CONSTRAINTS ALL DEFERRED"
CHECK_ALL: Final = "SET CONSTRAINTS ALL IMMEDIATE"

UNIQUE_VIOLATION, INTERNAL_ERROR = "23505", "XX000"
VISIBLE_STATES: Final = ("22", "23502")
"""SQLSTATEs (or classes) of faults that are often visible in the rows themselves, without asking the server."""

OWN_STATES: Final = ("22", "23502", "23505", "23514", "54", "XX000")
"""SQLSTATEs (or classes) of faults that no line before can heal: refused alone is refused among others."""

BEYOND_JSONB_CHARS: Final = 32 << 20
"""A longer document may have an array of more than 16,777,216 elements, or an object of more than 8,388,608 keys: jsonb's input
then ends with XX000, for it cannot double its memory (measured on 15). XX000 of anything shorter is no line's fault."""

MAX_GUESSES: Final = 3
"""Suspected rows of a batch that are tried alone; each costs a part of a load, and a search of many is cheaper."""

MAX_SEARCHES: Final = 3
"""Times that a batch is searched; others may commit a key between a search and the load after it, but not for ever."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """One line (from 0 in its batch) that the database refused: its rows are in no table."""

    index: int
    reason: str
    sqlstate: str | None
    table: str | None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why rows were not taken. route: into which table they were going; None: told only as the batch was closed."""

    route: _Route | None
    error: SchemaViolation


class _Restage(Exception):
    """Rows of this route meet stored keys: the batch begins anew with them staged."""

    def __init__(self, route: _Route) -> None:
        super().__init__(route)
        self.route = route


@dataclass(slots=True)
class _Rows:
    """Rows of one table, each kind counted where it happens: offered as the rows that are given, ignored as those that others of
    their batch beat, that the merge passed over, or that a trigger dropped."""

    offered: int = 0
    inserted: int = 0
    updated: int = 0
    ignored: int = 0

    def add(self, offered: int, inserted: int, updated: int, ignored: int) -> None:
        self.offered += offered
        self.inserted += inserted
        self.updated += updated
        self.ignored += ignored


class _Route:
    """How the rows of one target travel, and what became of them."""

    def __init__(
        self, conn: Connection, target: Target, number: int, own: tuple[Any, ...], is_merged_last: bool, compared: Comparable | None
    ) -> None:
        self._conn, self._number, self._own, self._compared = conn, number, own, compared
        self.target, self.name, self.is_merged_last = target, target.table.name, is_merged_last
        self.is_staged = target.table.shared
        self.staging: Staging | None = None
        self._direct: CopyWriter | None = None
        self.rows, self._batch = _Rows(), _Rows()
        self.droppers: list[str] | None = None  # triggers that have dropped rows; asked for only when rows are missed
        self.has_dropped = False
        self._row_sum = self._batch_row_sum = 0
        self.suspect: Sequence[Any] | None = None  # after a refusal by COPY: the row that seems to be the cause

    def make_staging(self) -> sql.Composed:
        self.staging = Staging(self._conn, self.target, self._number, self._compared)
        return self.staging.create()

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Send rows of the batch; what became of them counts only when note_batch is called."""
        if not self.is_staged:
            self._direct = self._direct or CopyWriter(self._conn, self.target, self.target.identifier, compared=self._compared)
            try:
                inserted = self._direct.write(rows, ((*row, *self._own) for row in rows) if self._own else rows)
            finally:
                self.suspect = None if self._direct.suspect is None else rows[self._direct.suspect]
            self._batch_row_sum += self._direct.row_sum
            if inserted != len(rows):
                self._note_dropped(len(rows) - inserted)
            self._batch.add(len(rows), inserted, 0, len(rows) - inserted)
            return
        assert self.staging is not None  # made before the batch, outside its savepoint
        try:
            n_beaten = self.staging.write(rows, self._own)
        finally:
            self.suspect = self.staging.suspect
        self._batch_row_sum += self.staging.row_sum
        self._batch.add(len(rows), 0, 0, n_beaten)
        if not self.is_merged_last:
            self._merge_into(self._batch)
            self.staging.empty()

    def _merge_into(self, rows: _Rows) -> None:
        assert self.staging is not None
        merged = self.staging.merge()
        n_ignored = merged.staged - merged.inserted - merged.updated
        rows.add(0, merged.inserted, merged.updated, n_ignored)
        if n_ignored and self._may_drop() and self.staging.count_dropped():
            self.has_dropped = True

    def _may_drop(self) -> list[str]:
        if self.droppers is None:
            self.droppers = dropping_triggers(self._conn, self.target)
        return self.droppers

    def _note_dropped(self, n: int) -> None:
        """COPY stored fewer rows than were sent: a trigger returned NULL for them, or something is wrong that must not pass."""
        if n < 0 or not self._may_drop():
            raise InvariantError(f"table {self.name}: of the rows of a COPY {n} are missing, and it has no trigger that drops rows")
        self.has_dropped = True

    def forget_batch(self) -> None:
        self._batch = _Rows()
        self._batch_row_sum = 0

    def note_batch(self) -> None:
        """Count the batch; a table whose staged rows were all new goes back to direct COPY."""
        batch = self._batch
        self._row_sum += self._batch_row_sum
        self.forget_batch()
        self.rows.add(batch.offered, batch.inserted, batch.updated, batch.ignored)
        if self.is_staged and not self.target.table.shared and batch.offered == batch.inserted > 0:
            self.is_staged = False

    def merge(self) -> None:
        self._merge_into(self.rows)

    def count(self) -> TableCount:
        """The rows of the chunk. Raises InvariantError: they do not add up; each of the four was counted where it happened."""
        rows = self.rows
        if rows.offered != rows.inserted + rows.updated + rows.ignored or rows.ignored < 0:
            raise InvariantError(
                f"table {self.name}: of {rows.offered} rows {rows.inserted} were inserted, {rows.updated} updated and {rows.ignored} "
                "ignored: rows were lost or doubled on the way"
            )
        count = TableCount(self.name, rows.offered, rows.inserted, rows.updated, rows.ignored)
        return count if self._compared is None else replace(count, checksum=signed(self._row_sum), compared=self._compared.signature)


class ChunkLoader:
    """Loads one chunk's batches within the caller's open transaction; never commits it or rolls it back as a whole.

    conn:        in a transaction, READ COMMITTED. targets: of the pipeline's tables, in its order (catalog.describe).
    task_id:     the provenance of rows. check_fence: raises LeaseLost where the attempt is no longer ours; called after
                 each fault of a batch. clock, now: seconds go to the stages ``copy`` and ``merge``.
    compared:    by a table's name, what is summed of the rows that stand (checksum.comparable); none of the others.
    merge_each_batch: shared tables are merged batch by batch rather than last: slower, and chunks may deadlock, but what
                 the merge itself refuses is found with its line. For a chunk whose finish() raised SchemaViolation.
    Raises:      psycopg.Error as it came, where no line is to blame (postgres.translate); the transaction is then dead.
    Guarantee:   a line is in all its tables or in none. Not thread-safe. Memory is that of one batch.
    """

    def __init__(
        self,
        conn: Connection,
        targets: Sequence[Target],
        *,
        task_id: int,
        check_fence: Callable[[], None],
        clock: StageClock,
        now: Callable[[], float],
        merge_each_batch: bool = False,
        compared: Mapping[str, Comparable] | None = None,
    ) -> None:
        self._conn, self._check_fence, self._clock, self._now = conn, check_fence, clock, now
        self._routes = [
            _Route(
                conn,
                target,
                number,
                (task_id,) if target.table.provenance else (),
                target.table.shared and not merge_each_batch,
                (compared or {}).get(target.table.name),
            )
            for number, target in enumerate(targets)
        ]
        self._is_open = False
        self._check = _batch_check(self._routes)

    def load(self, batch: BatchRows) -> list[LineFault]:
        """Load a batch and return the lines that the database refused, in their order.

        Guarantee: one released savepoint. One round trip besides the COPYs where no line is at fault: it closes this batch
                   and opens the next one's savepoint, unless lines or parts of this batch are refused, by the pipeline
                   or the database. So their rejects may be written at once; before writing anything else: settle().
        """
        started = self._clock.enter("copy", self._now())
        try:
            if any(table.rows for table in batch.tables):
                return self._load(batch)
            if _has_refused(batch):
                self.settle()
            return []
        finally:
            self._clock.add("copy", self._now() - started)

    def settle(self) -> None:
        """Release the open savepoint, so that no fault of a later batch undoes what the caller writes next. Idempotent."""
        if self._is_open:
            self._run(self._check, CLOSE_BATCH)
            self._is_open = False

    def finish(self) -> tuple[TableCount, ...]:
        """Merge shared tables, in the order of their qualified names, and return the counts of all, in the pipeline's order.

        Raises: SchemaViolation: the merge itself refused a row (a foreign key, a trigger, a sum out of range): no line
                can be named. Roll back and load the chunk again with merge_each_batch=True. TargetAltered: roll back, describe
                the tables anew. InvariantError: rows do not add up.
        """
        started = self._clock.enter("merge", self._now())
        try:
            for route in sorted(self._routes, key=lambda route: route.name):
                if route.is_merged_last and route.rows.offered:
                    failpoints.hit("merge.before")
                    with _blaming(route):
                        route.merge()
                    failpoints.hit("merge.after")
            with _blaming(None):
                self._run(CHECK_ALL)
            self._check_tables()
        finally:
            self._clock.add("merge", self._now() - started)
        return tuple(route.count() for route in self._routes)

    def notices(self) -> tuple[str, ...]:
        """What a person should know of the rows, in words that are the same for each chunk."""
        return tuple(
            f"table {route.name}: a trigger drops rows ({', '.join(route.droppers or ())}): they count as ignored"
            for route in self._routes
            if route.has_dropped
        )

    def _check_tables(self) -> None:
        """Raise TargetAltered if a table is not what the rows were encoded for: its bytes may be taken for something else.

        After the rows it is certain: a table that this transaction has written into cannot be altered until it ends.
        """
        if names := altered(self._conn, [route.target for route in self._routes]):
            raise TargetAltered(f"table {', '.join(names)} was altered or made anew while a chunk was loaded: the chunk is loaded anew")

    def _run(self, *statements: LiteralString | sql.Composed) -> None:
        self._conn.execute(sql.SQL("; ").join(s if isinstance(s, sql.Composed) else sql.SQL(s) for s in statements), prepare=False)

    def _load(self, batch: BatchRows) -> list[LineFault]:
        if not self._is_open:
            self._run(*[route.make_staging() for route in self._routes if route.is_staged and route.staging is None], OPEN_BATCH)
            self._is_open = True
        faults: dict[int, LineFault] = {}
        has_looked, guesses, searches = False, 0, 0
        while True:
            try:
                refusal = self._try_batch(_rows_of(batch, _runs(batch.n_lines, faults)), is_settled=bool(faults) or _has_refused(batch))
            except (psycopg.errors.ProtocolViolation, psycopg.errors.UndefinedObject):
                # Bytes of another width than the column's, or a constraint that is gone: trying again would never end.
                self._run(UNDO_BATCH)
                self._check_tables()
                raise
            if refusal is None:
                return [faults[index] for index in sorted(faults)]
            self._undo_batch()
            self._check_tables()  # what is wrong with every line is not the lines' fault
            if (route := _meets_stored_keys(refusal)) is not None:
                self._stage(route)
                continue
            if guesses < MAX_GUESSES and (line := _suspected(batch, self._routes, refusal)) is not None and line not in faults:
                guesses += 1
                if (fault := self._try_alone(batch, line)) is not None:
                    faults[line] = fault
                    continue
            if not has_looked and (refusal.error.sqlstate or "").startswith(VISIBLE_STATES):
                has_looked = True
                if visible := self._look_at(batch, faults):
                    faults |= visible
                    continue
            if searches == MAX_SEARCHES:
                raise refusal.error
            try:
                faults |= self._search(batch, faults)
                searches += 1
            except _Restage as order:
                self._undo_batch()
                self._stage(order.route)
            else:
                self._undo_batch()

    def _try_batch(self, tables: Iterable[Sequence[Sequence[Any]]], *, is_settled: bool) -> _Refusal | None:
        """Load rows and close the batch; on a refusal the transaction waits for its savepoint to be rolled back to."""
        refusal = self._write(tables) or self._ask(self._check, CLOSE_BATCH, *([] if is_settled else [OPEN_BATCH]))
        if refusal is None:
            self._is_open = not is_settled
            for route in self._routes:
                route.note_batch()
        return refusal

    def _write(self, tables: Iterable[Sequence[Sequence[Any]]]) -> _Refusal | None:
        for route, rows in zip(self._routes, tables, strict=True):
            if rows:
                try:
                    with _blaming(route, rows):
                        route.write(rows)
                except SchemaViolation as error:
                    return _Refusal(route, error)
        return None

    def _ask(self, *statements: LiteralString | sql.Composed) -> _Refusal | None:
        try:
            with _blaming(None):
                self._run(*statements)
        except SchemaViolation as error:
            return _Refusal(None, error)
        return None

    def _undo_batch(self) -> None:
        self._run(UNDO_BATCH)
        for route in self._routes:
            route.forget_batch()
        self._check_fence()

    def _stage(self, route: _Route) -> None:
        """Have a route's rows staged from now on; its table is made outside the batch's savepoint, to outlive it."""
        route.is_staged = True
        if route.staging is None:
            self._run(self._check, CLOSE_BATCH, route.make_staging(), OPEN_BATCH)

    def _try_alone(self, batch: BatchRows, line: int) -> LineFault | None:
        """Tell why a line is refused whatever the others are; None: it is not, or not for certain."""
        for route, table in zip(self._routes, batch.tables, strict=True):
            for _, reason, sqlstate in faulty_rows(self._conn, route.target, table.of_lines(line, line + 1)):
                return LineFault(line, reason, sqlstate, route.name)
        refusal = self._write(_rows_of(batch, [(line, line + 1)]))
        self._undo_batch()
        if refusal is None or not (refusal.error.sqlstate or "").startswith(OWN_STATES) or _meets_stored_keys(refusal):
            return None
        return LineFault(line, *refusal.error.args)

    def _look_at(self, batch: BatchRows, known: dict[int, LineFault]) -> dict[int, LineFault]:
        """Find lines with rows that cannot be right, without asking the server."""
        found: dict[int, LineFault] = {}
        for route, table in zip(self._routes, batch.tables, strict=True):
            for index, reason, sqlstate in faulty_rows(self._conn, route.target, table.rows):
                line = bisect_right(table.ends, index)
                if line not in known:
                    found.setdefault(line, LineFault(line, reason, sqlstate, route.name))
        return found

    def _search(self, batch: BatchRows, known: dict[int, LineFault]) -> dict[int, LineFault]:
        """Find the lines that the database refuses; what was loaded on the way is to be undone."""
        lines = [index for index in range(batch.n_lines) if index not in known]

        def attempt(start: int, stop: int) -> _Refusal | None:
            refusal = self._write(_rows_of(batch, _joined(lines[start:stop]))) or self._ask(self._check, KEEP_TRY)
            if refusal is not None:
                self._run(UNDO_TRY)
                if (route := _meets_stored_keys(refusal)) is not None:
                    raise _Restage(route)
            return refusal

        def suspect(refusal: _Refusal) -> int | None:
            line = _suspected(batch, self._routes, refusal)
            return None if line is None else bisect_left(lines, line)

        self._run(OPEN_TRY)
        refused = find_refused(len(lines), attempt, suspect)
        return {lines[at]: LineFault(lines[at], *refusal.error.args) for at, refusal in refused.items()}


def _batch_check(routes: Sequence[_Route]) -> LiteralString | sql.Composed:
    """Write the check of deferred constraints that ends a batch: of all but foreign keys to tables that are merged last.

    What those find at the end of the chunk has no line; the chunk is then loaded with merge_each_batch.
    """
    merged_last = {route.target.oid for route in routes if route.is_merged_last}
    deferrable = [constraint for route in routes for constraint in route.target.constraints if constraint.is_deferrable]
    prompt = [constraint for constraint in deferrable if constraint.refers_to not in merged_last]
    if len(prompt) == len(deferrable):
        return CHECK_ALL
    if not prompt:
        return "SET CONSTRAINTS ALL DEFERRED"  # as they are: nothing is to be checked
    names = sql.SQL(", ").join(constraint.identifier for constraint in prompt)
    return sql.SQL("SET CONSTRAINTS {} IMMEDIATE").format(names)


@contextmanager
def _blaming(route: _Route | None, rows: Sequence[Sequence[Any]] = ()) -> Iterator[None]:
    """Turn the server's refusal of a line's rows into SchemaViolation; any other error passes as it came."""
    try:
        yield
    except psycopg.Error as exc:
        reason, table = reason_of(exc), table_of(exc)
        if not is_line_fault(exc):
            if exc.sqlstate != INTERNAL_ERROR or not _has_beyond_jsonb(rows):
                raise
            reason = f"more elements than PostgreSQL's jsonb can take: {reason}"
        if route is not None:
            table = route.name
            if route.staging is not None:
                reason = reason.replace(route.staging.name, route.target.table.relation)
        raise SchemaViolation(reason, exc.sqlstate, table) from exc


def _has_beyond_jsonb(rows: Sequence[Sequence[Any]]) -> bool:
    return any(isinstance(value, str | bytes) and len(value) > BEYOND_JSONB_CHARS for row in rows for value in row)


def _meets_stored_keys(refusal: _Refusal) -> _Route | None:
    """The route whose rows met a stored key where the table's rule says what happens then; None: a line is to blame."""
    route = refusal.route
    if route is None or route.is_staged or refusal.error.sqlstate != UNIQUE_VIOLATION or route.target.table.on_conflict == "error":
        return None
    return route


def _suspected(batch: BatchRows, routes: Sequence[_Route], refusal: _Refusal) -> int | None:
    """The line whose row seems to be the cause of a refusal."""
    if refusal.route is None or (suspect := refusal.route.suspect) is None:
        return None
    table = batch.tables[routes.index(refusal.route)]
    for index, row in enumerate(table.rows):
        if row is suspect:
            return bisect_right(table.ends, index)
    return None


def _has_refused(batch: BatchRows) -> bool:
    return bool(batch.rejected or batch.parts)


def _runs(n_lines: int, left_out: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of lines (start, stop) without some."""
    walls = [-1, *sorted(left_out), n_lines]
    return [(before + 1, after) for before, after in pairwise(walls) if before + 1 < after]


def _joined(lines: Sequence[int]) -> list[tuple[int, int]]:
    """Runs (start, stop) of ascending line indexes."""
    runs: list[tuple[int, int]] = []
    for line in lines:
        if runs and runs[-1][1] == line:
            runs[-1] = (runs[-1][0], line + 1)
        else:
            runs.append((line, line + 1))
    return runs


def _rows_of(batch: BatchRows, runs: Sequence[tuple[int, int]]) -> list[Sequence[Sequence[Any]]]:
    """Rows of runs of lines, for each table."""
    if len(runs) == 1:
        return [table.of_lines(*runs[0]) for table in batch.tables]
    return [[row for run in runs for row in table.of_lines(*run)] for table in batch.tables]
