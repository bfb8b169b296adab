"""The broker's answers: submissions become runs, runs become statistics, chunks become files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from protheon_dask import __version__
from protheon_dask.broker import wire
from protheon_dask.broker.peers import HERE, Peer
from protheon_dask.broker.ports import StoredChunk
from protheon_dask.config import Settings, parse_reject_limit
from protheon_dask.errors import ChunkOutdated, ChunkUnavailable, ConfigError, LedgerUnavailable, ProtheonError
from protheon_dask.ledger import chunks, reports, runs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.ledger.transaction import is_of_server
from protheon_dask.ledger.undo import family, has_checksums, loads_beside, rows_of, to_replace
from protheon_dask.model import Identity, RunState, TaskState
from protheon_dask.pipelines.table import Table
from protheon_dask.policy import auto_chunk_lines
from protheon_dask.run import dead_letters, reporting
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.cutting import SPLIT_RETRY_S, Wanted
from protheon_dask.run.rejects import with_refusals
from protheon_dask.run.replay import ReplayDesk
from protheon_dask.run.statistics import statistics_of
from protheon_dask.run.undo import undo_load, undo_loads
from protheon_dask.run.verify import never_compared
from protheon_dask.sink import targets
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.words import since_epoch
from protheon_dask.workspace import source
from protheon_dask.workspace.chunkfile import ChunkStore, chunk_path
from protheon_dask.workspace.roots import SourceRoots
from protheon_dask.workspace.url import shown

logger = logging.getLogger(__name__)

IDENTIFIERS = 4
"""Sources that are identified at a time: each reads at most 64 MiB."""


JSONL = "jsonl"
TABLE_CHOSEN = "{}"
"""Its options as the ledger keeps them where its table was not named, but chosen after the paths."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the services around this broker are."""

    scheduler_address: str
    dashboard_link: str
    broker_uuid: str
    http_address: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    identity: Identity
    estimated_lines: int


class RunDesk:
    """Answers for runs. Thread-safe: a connection for each call."""

    def __init__(self, settings: Settings, url: str, coordinator: Coordinator, place: Place, *, ephemeral: bool) -> None:
        self._settings, self._url, self._coordinator, self._place, self._ephemeral = settings, url, coordinator, place, ephemeral
        self._roots = SourceRoots(settings.source_roots)

    def submit(self, submission: wire.Submission, peer: Peer = HERE) -> wire.Submitted:
        """Make a run of a submission: targets checked or made, sources identified, loads joined.

        peer: who asks; what a client of another host names must lie below source_roots.

        Raises:    ConfigError: a path, a table or an option; no run was made, or it was cancelled with this reason. SourceUnavailable.
        Guarantee: the same request_id again returns the same run.
        """
        if submission.replace and submission.again:
            raise ConfigError("--again keeps the rows of the old load, --replace deletes them first: give one of the two")
        with self._connected() as conn:
            if submission.request_id and (known := runs.run_of_request(conn, submission.request_id)) is not None:
                return self._submitted(conn, known)
            paths = (source if peer.is_here else self._roots).resolve(submission.paths)
            self._check_targets(conn, submission)  # first: sources may take long to read
            with ThreadPoolExecutor(IDENTIFIERS) as pool:
                found = list(pool.map(_identify, paths))
            for path, item in zip(paths, found, strict=True):
                self._coordinator.cutting.splitters.keep_secret(path, item.identity)
            old = _old_loads(conn, submission, found) if submission.replace else {}
            _refuse_elsewhere(conn, submission, old)
            notices = self._make_targets(conn, submission, [item for item in found if item.identity not in old])
            if submission.replace:
                notices += _undo_old_loads(conn, submission, found, old)
            with conn.transaction():
                run_id = self._create(conn, submission)
            joined = []
            with self._cancelled_on_error(run_id):
                for item in found:
                    with conn.transaction():
                        joined.append(runs.join_load(conn, self._load(run_id, submission, item), again=submission.again))
                notices += tuple(notice for load in joined for notice in load.notices)
                if any(load.is_again for load in joined):
                    notices += _twice(conn, _tables_of(submission))
                runs.start_run(conn, run_id, notices)
        self._coordinator.wake()
        logger.info("run.submit", extra={"run_id": run_id, "files": len(found), "pipeline": submission.pipeline.name})
        return wire.Submitted(run_id, tuple(wire.JoinedLoad(load.load_id, load.path, load.joined) for load in joined), notices)

    def get(self, run_id: int) -> wire.RunView:
        with self._connected() as conn:
            return self._view(conn, run_id or runs.latest_run(conn), with_refusals)

    def list(self, limit: int) -> Iterable[wire.RunView]:
        with self._connected() as conn:
            return [self._view(conn, row["run"]) for row in reports.runs(conn, limit or 20)]

    def cancel(self, run_id: int) -> wire.RunView:
        with self._connected() as conn:
            run_id = run_id or runs.latest_run(conn)
            with conn.transaction():
                is_cancelled = runs.cancel_run(conn, run_id, runs.CANCELLED_BY_HAND)
            if is_cancelled:
                logger.info("run.cancel", extra={"run_id": run_id})
            self._coordinator.wake()
            return self._view(conn, run_id)

    def pause(self, run_id: int, reason: str) -> wire.RunView:
        """Dispatch nothing more of a run. Idempotent: a run that is paused, or has ended, stays as it is, with its reason."""
        with self._connected() as conn:
            run_id = run_id or runs.latest_run(conn)
            told = reason or runs.PAUSED_BY_HAND
            if runs.pause_run(conn, run_id, told):
                logger.warning("run.pause", extra={"run_id": run_id, "reason": told})
            return self._view(conn, run_id)

    def resume(self, resumption: wire.Resumption) -> wire.RunView:
        """Go on with a paused run. Idempotent: a run that runs, or has ended, stays as it is, with its limit."""
        with self._connected() as conn:
            run_id = resumption.run_id or runs.latest_run(conn)
            given = resumption.reject_limit_lines is not None or resumption.reject_limit_fraction is not None
            limit = runs.reject_limit(resumption.reject_limit_lines, resumption.reject_limit_fraction) if given else None
            if runs.resume_run(conn, run_id, limit, ephemeral=self._ephemeral):
                logger.info("run.resume", extra={"run_id": run_id})
            self._coordinator.wake()
            return self._view(conn, run_id)

    def replay(self, replay: wire.Replay) -> wire.Submitted:
        """Make a run of what a run refused, unless nothing is left to do or another replay has it: see ReplayDesk.submit().

        Guarantee: the same request_id again returns the same run.
        """
        lead = self._coordinator
        desk = ReplayDesk(
            settings=self._settings,
            spools=lead.cutting.spools,
            n_threads=lead.n_threads,
            make_targets=partial(self._make_targets, found=()),
            create_run=self._create,
            readable=lead.cutting.splitters.with_secret,
        )
        with self._connected() as conn:
            if replay.request_id and (known := runs.run_of_request(conn, replay.request_id)) is not None:
                return self._submitted(conn, known)
            submitted = desk.submit(conn, replay)
        lead.wake()
        logger.info("run.replay", extra={"run_id": submitted.run_id, "files": len(submitted.loads)})
        return submitted

    def undo(self, load_id: int) -> wire.Undone:
        """Delete the rows of a load, as run.undo.undo_load says; the call lasts as long as that."""
        return wire.Undone(load_id, undo_load(self._url, load_id).deleted_rows)

    def replay_dead_letters(self, choice: wire.LetterChoice) -> wire.DeadLetters:
        """Make dead tasks ready again, and bring back the runs that had ended over them: see ledger.dead_letters.replay."""
        lead = self._coordinator.leadership
        with self._connected() as conn:
            done = dead_letters.replay(conn, lead.epoch if lead else 0, choice.run_id, choice.task_ids, ephemeral=self._ephemeral)
        self._coordinator.wake()
        return done

    def purge_dead_letters(self, choice: wire.LetterChoice) -> wire.DeadLetters:
        """Give dead tasks up: the coordinator deletes their files at its next look."""
        with self._connected() as conn:
            done = dead_letters.purge(conn, choice.run_id, choice.task_ids)
        self._coordinator.wake()
        return done

    def report(self, wanted: wire.Report) -> Generator[str]:
        """Pages of a report; a connection stays open until the last one was taken, or the generator is closed."""
        with self._connected() as conn:
            yield from reporting.pages_of(conn, wanted)

    def info(self) -> wire.MasterInfo:
        lead = self._coordinator.leadership
        return wire.MasterInfo(
            version=__version__,
            scheduler_address=self._place.scheduler_address,
            dashboard_link=self._place.dashboard_link,
            broker_uuid=self._place.broker_uuid,
            epoch=lead.epoch if lead else 0,
            n_threads=self._coordinator.n_threads,
            ledger_id=str(lead.ledger_id) if lead else "",
            ephemeral=self._ephemeral,
            http_address=self._place.http_address,
        )

    # --- the pieces -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection for the time of a block. Raises LedgerUnavailable, which says since when, where that is known."""
        try:
            with opened(self._url, application="protheon-broker") as conn:
                yield conn
        except LedgerUnavailable as exc:
            if (lost_at := self._coordinator.ledger_lost_at) is None:
                raise
            raise LedgerUnavailable(since_epoch(lost_at, str(exc))) from exc

    @contextmanager
    def _cancelled_on_error(self, run_id: int) -> Iterator[None]:
        """A run whose submission fails half-way would stay queued for ever, and block --again: cancel it, on a connection that works."""
        try:
            yield
        except Exception as exc:  # whatever it was, it is raised again
            reason = f"its submission failed: {exc}"
            try:
                with self._connected() as conn, conn.transaction():
                    runs.cancel_run(conn, run_id, reason)
            except ProtheonError:  # the next broker to lead abandons it
                logger.exception("run.left_queued", extra={"run_id": run_id, "reason": reason})
            raise

    def _view(
        self, conn: Connection, run_id: int, more: Callable[[Connection, RunStatistics], RunStatistics] = lambda _, known: known
    ) -> wire.RunView:
        statistics = more(conn, statistics_of(conn, run_id))
        if statistics.state is RunState.RUNNING:
            waiting_for, waiting_since_at = self._coordinator.waiting_for, self._coordinator.waiting_since_at
            if waiting_for is None and (wait := self._coordinator.cutting.source_wait(run_id)) is not None:
                waiting_for, waiting_since_at = f"{wait.message}; it is tried again at least every {SPLIT_RETRY_S:g} s", wait.since_at
            if waiting_for is not None:
                statistics = replace(statistics, reason=since_epoch(waiting_since_at, waiting_for))
        return wire.RunView(run_id, statistics.state, statistics.to_json())

    def _submitted(self, conn: Connection, run_id: int) -> wire.Submitted:
        loads = tuple(wire.JoinedLoad(row["load_id"], row["path"], row["joined"]) for row in reports.files(conn, run_id))
        return wire.Submitted(run_id, loads, tuple(statistics_of(conn, run_id).notices))

    def _check_targets(self, conn: Connection, submission: wire.Submission) -> None:
        """Raise what stands in the way of the tables; nothing is made."""
        with conn.transaction(force_rollback=True):
            targets.ensure_tables(conn, _tables_of(submission))

    def _make_targets(self, conn: Connection, submission: wire.Submission, found: Sequence[_Found]) -> tuple[str, ...]:
        tables = _tables_of(submission)
        with conn.transaction():
            lost = () if submission.again else self._lost_rows(conn, submission, tables, found)
            notices = tuple(targets.ensure_tables(conn, tables))
            if submission.pipeline.reference == JSONL:
                notices += tuple(targets.create_path_view(conn, tables[0]))
            if submission.checksum:
                notices += tuple(never_compared(conn, tables, submission.pipeline.reference))
        return (*notices, *lost)

    def _lost_rows(
        self, conn: Connection, submission: wire.Submission, tables: Sequence[Table], found: Sequence[_Found]
    ) -> tuple[str, ...]:
        """Say which files count as loaded though a table that took their rows is gone or empty.

        Raises: ConfigError: such a file is loaded in part; going on would end as if all were there.
        """
        bare = targets.without_rows(conn, tables)
        if not bare:
            return ()
        packed = submission.pipeline
        identity = {"pipeline_name": packed.name, "pipeline_version": packed.version, "options": packed.options_json}
        paths = {item.identity: item.path for item in found}
        told = []
        for lost in runs.lost_rows(conn, list(paths), identity, list(bare)):
            where = f"table {lost.table}, into which run {lost.owner_run} put {lost.n_rows:,} rows of it, is {bare[lost.table]} now"
            if not lost.finished:
                raise ConfigError(f"{paths[lost.identity]} is loaded in part, and {where}: --again loads all of it once more")
            told.append(f"{paths[lost.identity]}: counts as loaded, but {where}: --again loads it once more")
        return tuple(told)

    def _create(self, conn: Connection, submission: wire.Submission) -> int:
        packed = submission.pipeline
        default = parse_reject_limit(self._settings.reject_limit)
        given = submission.reject_limit_lines is not None or submission.reject_limit_fraction is not None
        columns = {
            "paths": [shown(path) for path in submission.paths],
            "pipeline_name": packed.name,
            "pipeline_version": packed.version,
            "chunk_lines": submission.chunk_lines or None,
            "reject_limit_lines": submission.reject_limit_lines if given else default.lines,
            "reject_limit_fraction": submission.reject_limit_fraction if given else default.fraction,
            "request_id": submission.request_id or str(uuid4()),
            "ephemeral": self._ephemeral,
            "checksum": submission.checksum,
        }
        fields = asdict(packed)
        pipeline = {name.removesuffix("_json"): value for name, value in fields.items()}
        run_id = runs.create_run(conn, columns, pipeline)
        if run_id is None:
            raise ConfigError(f"submission {submission.request_id} is being made by another call: ask again")
        return run_id

    def _load(self, run_id: int, submission: wire.Submission, item: _Found) -> runs.NewLoad:
        settings, packed = self._settings, submission.pipeline
        auto = auto_chunk_lines(item.estimated_lines, self._coordinator.n_threads)
        return runs.NewLoad(
            run_id=run_id,
            pipeline_name=packed.name,
            pipeline_version=packed.version,
            options=packed.options_json,
            code_hash=packed.code_hash,
            path=item.path,
            identity=item.identity,
            chunk_lines=submission.chunk_lines or min(auto, settings.chunk_lines),
            chunk_lines_given=bool(submission.chunk_lines),
            max_chunk_bytes=settings.max_chunk_bytes,
            max_line_bytes=settings.max_line_bytes,
            estimated_lines=item.estimated_lines,
        )


def _twice(conn: Connection, tables: Sequence[Table]) -> tuple[str, ...]:
    """Say into which tables the rows of a load that is loaded again come beside those of the load before."""
    empty = targets.without_rows(conn, tables)
    return tuple(
        f"table {table.name} has no key: rows that are loaded again are there twice"
        for table in tables
        if not table.primary_key and table.name not in empty
    )


def _old_loads(conn: Connection, submission: wire.Submission, found: Sequence[_Found]) -> dict[Identity, list[int]]:
    """The loads that this submission replaces, by their sources; none is there for a source that is new.

    With a table that was named for jsonl also loads for which this table had been chosen: nobody who replaces wants their rows twice.
    """
    packed = submission.pipeline
    tables = {table.name for table in _tables_of(submission)}
    old = {}
    for item in found:
        load_ids = to_replace(conn, item.identity, packed.name, packed.version, packed.options_json, packed.code_hash)
        if packed.reference == JSONL and packed.options_json != TABLE_CHOSEN:
            chosen = to_replace(conn, item.identity, packed.name, packed.version, TABLE_CHOSEN, packed.code_hash)
            load_ids += [load_id for load_id in chosen if rows_of(conn, [load_id]).keys() == tables]
        if load_ids:
            old[item.identity] = load_ids
    return old


def _refuse_elsewhere(conn: Connection, submission: wire.Submission, old: Mapping[Identity, list[int]]) -> None:
    """Raise ConfigError where jsonl chose a table from the paths as they are typed now, and rows to be replaced lie in another one.

    Not for other pipelines: their author named the tables.
    """
    if submission.pipeline.reference != JSONL:
        return
    [table] = _tables_of(submission)
    for load_id in sorted(load_id for load_ids in old.values() for load_id in load_ids):
        with conn.transaction():
            members = family(conn, [load_id])
        for name, (inserted, updated) in rows_of(conn, [member.load_id for member in members]).items():
            if name != table.name:
                raise ConfigError(
                    f"load {load_id} ({members[0].path}) has {inserted + updated:,} rows in table {name}, and this one would load into "
                    f"{table.name}; nothing was deleted. To replace them there add --table {name}; "
                    f"to delete them and load into {table.name} type `protheon undo {load_id}` first"
                )


def _undo_old_loads(
    conn: Connection, submission: wire.Submission, found: Sequence[_Found], old: Mapping[Identity, list[int]]
) -> tuple[str, ...]:
    """Undo the loads that this submission replaces, all or none; return what to tell. Raises ConfigError: why it cannot be."""
    packed = submission.pipeline
    beside = loads_beside(conn, {item.identity: item.path for item in found}, packed.name, packed.version, packed.options_json)
    told = [
        f"load {load['id']} ({load['path']}) stays, for it is of "
        + (f"the pipeline's version {load['pipeline_version']!r}" if load["is_same_content"] else "what the file held before")
        + f"; protheon undo {load['id']} deletes its rows"
        for load in beside
    ]
    load_ids = sorted({load_id for load_ids in old.values() for load_id in load_ids})
    if load_ids:
        if has_checksums(conn, load_ids) and not submission.checksum:
            told.append("the replaced rows had checksums, and the new ones have none: --checksum keeps them, for `runs verify --deep`")
        undone = undo_loads(conn, load_ids)
        rows = ", ".join(f"{n_rows:,} rows of {table}" for table, n_rows in undone.deleted_rows.items()) or "no rows"
        told.insert(0, f"replaced: load {', '.join(map(str, load_ids))} was undone first: {rows} deleted")
    return tuple(told)


class ChunkDesk:
    """Finds chunk files for the streamer. Thread-safe."""

    def __init__(self, url: str, store: ChunkStore, tell: Callable[[Wanted], None]) -> None:
        self._url, self._store, self._tell = url, store, tell

    def locate(self, chunk_id: int, generation: int) -> StoredChunk:
        with self._connected() as conn:
            place = chunks.locate(conn, chunk_id)
            if place.generation != generation:
                raise ChunkOutdated(f"chunk {chunk_id} has generation {place.generation} now, not {generation}: claim it again")
            path = chunk_path(self._store.directory, place.load_id, place.first_line, place.generation)
            if not _is_whole(path, place.stored_bytes):
                if place.state in (TaskState.READY, TaskState.RUNNING):
                    self._tell(Wanted(place.load_id, place.first_line, place.generation))
                raise ChunkUnavailable(f"chunk {chunk_id} is not in the workspace: it is being cut again")
        return StoredChunk(path, place.stored_bytes, place.generation)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """What PostgreSQL refuses the broker in the middle of a run is an outage to a worker: the fault is not its own."""
        try:
            with opened(self._url, application="protheon-broker") as conn:
                yield conn
        except ConfigError as exc:
            if is_of_server(exc):
                raise LedgerUnavailable(f"at the broker: {exc}") from exc
            raise


def _is_whole(path: Path, stored_bytes: int) -> bool:
    try:
        return path.stat().st_size == stored_bytes
    except OSError:
        return False


def _identify(path: str) -> _Found:
    identity = source.identify(path)
    return _Found(shown(path), identity, source.estimate_lines(path, identity.size_bytes))


def _tables_of(submission: wire.Submission) -> list[Table]:
    return [Table.from_json(value) for value in json.loads(submission.pipeline.tables_json)]
