"""``undo``: delete the rows of a load again where no other load can depend on them; ``load --replace`` does it before it loads anew."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from protheon_dask.errors import ITEM, ConfigError, LedgerUnavailable, NotFound
from protheon_dask.ledger import undo as ledger
from protheon_dask.ledger import verbs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.ledger.migrate import check_current
from protheon_dask.ledger.undo import Member
from protheon_dask.pipelines.table import PROVENANCE, Table
from protheon_dask.sink.readback import LOAD_ID, names_lines
from protheon_dask.sink.undo import Doomed, Eraser, Order, find_doomed, is_left, obstacles, ordered

logger = logging.getLogger(__name__)

COMPLETING_S = 60.0
"""How long tasks that were at work when their run was cancelled are waited for: a completion has this long at most, a lease no longer."""
POLL_S = 0.2
MAX_PASSES = 5
"""Times that a table is looked through: rows that others move meanwhile may be missed, but not for ever."""


@dataclass(frozen=True, slots=True)
class UndonePlan:
    """What an undo would do. refusals: why it cannot; empty: it can. rows: that the loads left in each table, by the ledger."""

    load_ids: tuple[int, ...]  # that were named
    run_ids: tuple[int, ...]  # of each the run that has it now
    paths: tuple[str, ...]
    replay_ids: tuple[int, ...]  # replays of their rejects, which go with them
    rows: dict[str, int]
    refusals: tuple[str, ...]
    began_at: datetime | None  # of an undo that was interrupted, and goes on
    undone_at: datetime | None  # it is undone already
    n_running: int = 0

    @property
    def name(self) -> str:
        """``load 3 of run 2 (/data/a.jsonl)``: a run's number may be a load's as well."""
        named = zip(self.load_ids, self.run_ids, self.paths, strict=True)
        return ", ".join(f"load {load_id} of run {run_id} ({path})" for load_id, run_id, path in named)

    def refuse(self) -> None:
        """Raises: ConfigError with every reason, if there is one. Nothing was changed, unless an undo was interrupted before."""
        if self.refusals:
            how = "its undo, which was begun, cannot go on" if self.began_at else "cannot be undone"
            reasons = f" {self.refusals[0]}" if len(self.refusals) == 1 else ITEM + ITEM.join(self.refusals)
            raise ConfigError(f"{self.name}: {how}:{reasons}")


@dataclass(frozen=True, slots=True)
class UndoneLoads:
    """Loads whose rows are gone."""

    load_ids: tuple[int, ...]
    deleted_rows: dict[str, int]  # by table, over all tries
    was_undone_at: datetime | None = None  # before this call, which then changed nothing


def plan_undo(url: str, load_id: int) -> UndonePlan:
    """Say what undoing a load would delete, or why it cannot be undone. Changes nothing."""
    with opened(url, application="protheon-undo") as conn:
        check_current(conn)
        with conn.transaction(force_rollback=True):
            return _Undo(conn, [load_id]).plan


def undo_load(url: str, load_id: int, on_rows: Callable[[str, int], None] = lambda *_: None) -> UndoneLoads:
    """Delete the rows of a load, and of replays of its rejects, and return how many went; or refuse before anything is deleted.

    on_rows:   told a table's name and how many of its rows this call has deleted, after each piece.
    Raises:    NotFound; ConfigError: why it cannot be undone; LedgerUnavailable: type it again, it goes on.
    Guarantee: in pieces, each a transaction of its own; killed anywhere and asked again it goes on, and counts no row twice.
               From its beginning the load is retired, and no run is made that would build on the rows that go.
    """
    with opened(url, application="protheon-undo") as conn:
        check_current(conn)
        return undo_loads(conn, [load_id], on_rows)


def undo_loads(conn: Connection, load_ids: Sequence[int], on_rows: Callable[[str, int], None] = lambda *_: None) -> UndoneLoads:
    """Undo several loads as one: what they owe each other is no obstacle. Raises and guarantees as undo_load."""
    undo = _begin(conn, load_ids)
    if undo.plan.undone_at is not None:
        return UndoneLoads(tuple(load_ids), ledger.deleted(conn, load_ids), undo.plan.undone_at)
    undo.erase(on_rows)
    with conn.transaction():
        ended = ledger.end(conn, undo.all_ids)
    logger.info("load.undone", extra={"load_ids": ended})
    return UndoneLoads(tuple(load_ids), ledger.deleted(conn, load_ids))


def _begin(conn: Connection, load_ids: Sequence[int]) -> _Undo:
    """Check everything, and note the beginning once no task of the loads is at work any more."""
    with conn.transaction(force_rollback=True):
        _Undo(conn, load_ids).plan.refuse()  # what takes long is looked at while runs may still begin
    end_at = time.monotonic() + COMPLETING_S
    while True:
        with conn.transaction():
            ledger.keep_runs_out(conn)
            undo = _Undo(conn, load_ids, looks_into_tables=False)
            undo.plan.refuse()
            if not undo.plan.n_running:
                if undo.plan.undone_at is None:
                    ledger.start(conn, undo.members, undo.tables)
                return undo
        if time.monotonic() > end_at:
            raise LedgerUnavailable(f"{undo.plan.name}: {undo.plan.n_running} of its chunks are still being completed: try again")
        with conn.transaction():
            verbs.cancel(conn)  # no master may be there to repeat it
        time.sleep(POLL_S)


class _Undo:
    """Loads, and the rows that go with them, as they are in one transaction.

    looks_into_tables: for rows elsewhere that refer to theirs; else only at what the ledger and the catalog say.
    """

    def __init__(self, conn: Connection, load_ids: Sequence[int], *, looks_into_tables: bool = True) -> None:
        self._conn = conn
        ledger.take_turns(conn, load_ids)
        members = ledger.family(conn, load_ids)
        if missing := sorted(set(load_ids) - {member.load_id for member in members}):
            raise NotFound(f"there is no load {missing[0]}: loads have numbers of their own, which `protheon files RUN` lists")
        self.members: list[Member] = members
        self.all_ids = [member.load_id for member in members]
        self._chunks = ledger.chunks_of(conn, self.all_ids)
        self._rows = ledger.rows_of(conn, self.all_ids)
        self._refusals: list[str] = []
        self._tables = self._read_tables()
        self.order = Order((), frozenset(), frozenset(), ())
        named = [member for member in members if member.load_id in load_ids]
        is_undone = all(member.undone_at is not None for member in named)
        if is_undone:
            self._refusals = []
        else:
            self._check_members(named)
            self._check_rules()
            if not self._refusals:  # a look at the tables may take long, and would not change the answer
                self._check_tables(looks_into_tables)
            self._check_runs()
        started = [member.undo_started_at for member in named if member.undo_started_at is not None]
        self.plan = UndonePlan(
            load_ids=tuple(member.load_id for member in named),
            run_ids=tuple(member.owner_run_id for member in named),
            paths=tuple(member.path for member in named),
            replay_ids=tuple(member.load_id for member in members if member.load_id not in load_ids),
            rows={name: inserted + updated for name, (inserted, updated) in self._rows.items()},
            refusals=tuple(self._refusals),
            began_at=min(started, default=None),
            undone_at=max(member.undone_at for member in named if member.undone_at is not None) if is_undone else None,
            n_running=sum(member.n_running for member in members),
        )

    @property
    def tables(self) -> dict[str, bool]:
        """The tables with rows of these loads, and whether new rows there would be judged by theirs, or may refer to them."""
        related = {one.table.name for one in self.order.doomed if one.oid in self.order.related}
        return {
            name: name in related or self._tables[name][0].on_conflict != "error" for name in sorted(self._rows) if name in self._tables
        }

    def erase(self, on_rows: Callable[[str, int], None]) -> None:
        """Delete the rows, piece by piece, each in a transaction of its own, until none is left."""
        for doomed in self.order.doomed:
            total = 0
            for _ in range(MAX_PASSES):
                eraser = Eraser(self._conn, doomed, at_once=doomed.oid in self.order.at_once)
                while eraser.has_more():
                    total += self._delete(doomed, eraser)
                    on_rows(doomed.table.name, total)
                if not is_left(self._conn, doomed):
                    break
            else:
                raise LedgerUnavailable(f"table {doomed.table.name}: somebody changes rows of it faster than they are deleted: try again")

    def _delete(self, doomed: Doomed, eraser: Eraser) -> int:
        deleted: dict[int, int] = defaultdict(int)
        with self._conn.transaction():
            ledger.take_turns(self._conn, self.plan.load_ids)
            for marker, n_rows in eraser.delete().items():
                deleted[marker if doomed.marker == LOAD_ID else self._chunks[marker]] += n_rows
            ledger.count(self._conn, doomed.table.name, deleted)
        return sum(deleted.values())

    # --- what stands against it -----------------------------------------------------------------------------------------

    def _read_tables(self) -> dict[str, tuple[Table, bool]]:
        """The tables of the loads' pipelines by name, and whether rows name their load and line."""
        found: dict[str, tuple[Table, bool]] = {}
        for member in self.members:
            for value in json.loads(member.tables):
                table = Table.from_json(value)
                by_line = names_lines(table, member.reference)
                known = found.get(table.name)
                if known is not None and (known[0].provenance, known[1]) != (table.provenance, by_line):
                    self._refusals.append(f"table {table.name}: its replays tell otherwise where rows came from")
                found[table.name] = (table, by_line)
        return found

    def _check_members(self, named: Sequence[Member]) -> None:
        for member in named:
            if member.replay_of is not None:
                self._refusals.append(
                    f"it is a replay of rejects of load {member.replay_of}, and goes with that one: protheon undo {member.replay_of}"
                )
        for run in ledger.live_runs(self._conn, self.all_ids):
            if run["load_ids"]:
                self._refusals.append(
                    f"run {run['run_id']} has it and is {run['state']}: cancel it first: protheon runs cancel {run['run_id']}"
                )

    def _check_rules(self) -> None:
        """By the tables' rules: rows that are sums, that took the place of others, or that others were ignored for."""
        standing = []
        for name, (inserted, updated) in self._rows.items():
            if not inserted and not updated:
                continue
            if name not in self._tables:
                self._refusals.append(f"table {name}: the pipeline of its last run does not know it any more")
                continue
            table, by_line = self._tables[name]
            if table.on_conflict == "add":
                self._refusals.append(f"table {name}: its values were added to stored rows (on_conflict='add')")
            elif not table.provenance and not by_line:
                self._refusals.append(
                    f"table {name}: its rows do not say where they came from (the pipeline has no provenance=True for it)"
                )
            elif updated:
                self._refusals.append(f"table {name}: it replaced {updated:,} stored rows (on_conflict='update'), which are gone")
            standing.append(name)
        for row in ledger.built_upon(self._conn, self.all_ids, standing):
            where, other = f"table {row['table_name']}", f"load {row['load_id']} ({row['path']})"
            if row["passed_over"]:
                self._refusals.append(
                    f"{where}: {row['passed_over']:,} rows of {other} were ignored, and may stand on rows of it; undo that one first"
                )
            if row["put_into"]:
                self._refusals.append(
                    f"{where}: {other} added to {row['put_into']:,} stored rows, or replaced them without provenance: these may be its own"
                )

    def _check_tables(self, looks_into_tables: bool) -> None:
        """In the database: what refers to the rows, what watches them, what forbids it."""
        doomed: list[Doomed] = []
        for name, (table, by_line) in sorted(self._tables.items()):
            if name not in self._rows:
                continue
            ids = {member.root_id for member in self.members} if by_line else self._chunks.keys()
            found = find_doomed(self._conn, table, LOAD_ID if by_line else PROVENANCE, sorted(ids))
            if isinstance(found, str):
                self._refusals.append(found)
            elif found is not None:
                doomed.append(found)
        if looks_into_tables:
            self._refusals += obstacles(self._conn, doomed)
        self.order = ordered(self._conn, doomed)
        if self.order.circle:
            self._refusals.append(f"tables {', '.join(self.order.circle)} refer to each other in a circle")

    def _check_runs(self) -> None:
        """Runs at work on the same tables, whose rows would be judged by rows that go, or may refer to them."""
        kept_out = {name for name, keeps_out in self.tables.items() if keeps_out}
        for run in ledger.live_runs(self._conn, self.all_ids):
            declared = [Table.from_json(value) for value in json.loads(run["tables"])]
            judging = {table.name for table in declared if table.on_conflict != "error"} & self.tables.keys()
            shared = sorted(judging | (kept_out & {table.name for table in declared}))
            if shared and not run["load_ids"]:  # those are named already
                self._refusals.append(
                    f"run {run['run_id']} is {run['state']} and loads into {', '.join(shared)}: wait for its end, or cancel it"
                )


__all__ = ["UndoneLoads", "UndonePlan", "plan_undo", "undo_load", "undo_loads"]
