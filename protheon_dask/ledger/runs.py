"""Runs and loads: how a submission joins what is there, who owns a load, and how runs end.

Each function takes the connection first, works in the caller's transaction and never commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from protheon_dask.errors import ConfigError, LeadershipLost, NotFound
from protheon_dask.ledger import undo, verbs
from protheon_dask.ledger.rows import rows, run
from protheon_dask.model import YOUR_PIPELINE, ChunkManifest, Identity, Joined, Lease, RunState, Seen, SplitState
from protheon_dask.pipelines.table import Table
from protheon_dask.policy import RejectLimit

PAUSED_BY_HAND = "paused by hand"
"""The reason of a pause that came without one."""
CANCELLED_BY_HAND = "cancelled by hand"
"""The reason of a run that a person cancelled."""
INTERRUPTED = "interrupted: its command ended; type the same again to go on"
"""The reason of a run whose cluster ended with the command that it lived for."""


def create_run(conn: psycopg.Connection, columns: Mapping[str, Any], pipeline: Mapping[str, Any]) -> int | None:
    """Write a queued run and its pipeline; None where this request_id was submitted before.

    Raises: ConfigError: rows that its own would meet are being deleted just now; the caller rolls back.
    """
    made = rows(conn, "insert_run", {"checksum": False, **columns})
    if not made:
        return None
    run_id: int = made[0]["id"]
    run(conn, "insert_pipeline", {**pipeline, "run_id": run_id})
    undo.refuse_while_undoing(conn, run_id)
    return run_id


def run_of_request(conn: psycopg.Connection, request_id: str) -> int | None:
    """The run that a repeated submission made the first time. Raises ConfigError: that submission is still at work on it."""
    found = rows(conn, "run_of_request", {"request_id": request_id})
    if found and RunState(found[0]["state"]) is RunState.QUEUED:
        raise ConfigError(f"submission {request_id} is being made by another call, as run {found[0]['id']}: ask again when it has started")
    return found[0]["id"] if found else None


@dataclass(frozen=True, slots=True)
class NewLoad:
    """What a run brings to a load: its pipeline, the source and the geometry that a first split would have."""

    run_id: int
    pipeline_name: str
    pipeline_version: str
    options: str  # canonical JSON
    code_hash: bytes
    path: str
    identity: Identity
    chunk_lines: int
    chunk_lines_given: bool
    max_chunk_bytes: int
    max_line_bytes: int
    estimated_lines: int


@dataclass(frozen=True, slots=True)
class JoinedLoad:
    """How the run came to the load, and what the person should know about it."""

    load_id: int
    path: str
    joined: Joined
    notices: tuple[str, ...] = ()
    is_again: bool = False  # another load of this identity was retired for it


def join_load(conn: psycopg.Connection, new: NewLoad, *, again: bool) -> JoinedLoad:
    """Attach to a load in progress, go on with an unfinished one, skip a finished one, or make a new one.

    Guarantee: two submissions of one source take turns (its row is locked until the caller's transaction ends), so a source
    is loaded once however often it is asked for. With again a load that this run did not make is retired first.
    """
    source_id = lock_source(conn, new.identity)
    identity = {
        "source_id": source_id,
        "pipeline_name": new.pipeline_name,
        "pipeline_version": new.pipeline_version,
        "options": new.options,
    }
    undo.refuse_being_undone(conn, identity, new.path)
    found, is_again = rows(conn, "find_load", identity), False
    if found and again and found[0]["owner_run_id"] != new.run_id:
        if RunState(found[0]["owner_state"]) in (RunState.QUEUED, RunState.RUNNING):
            raise ConfigError(
                f"{new.path} is being loaded by run {found[0]['owner_run_id']}: --again would load it beside that; "
                f"wait for it, or cancel it: protheon runs cancel {found[0]['owner_run_id']}"
            )
        for replay in rows(conn, "live_replays", {"load_ids": [found[0]["id"]]}):
            raise ConfigError(
                f"{new.path}: its rejects are being replayed by run {replay['run_id']}: --again would load those lines beside that; "
                f"wait for it, or cancel it: protheon runs cancel {replay['run_id']}"
            )
        run(conn, "retire_load", {"load_id": found[0]["id"], "now": None})
        found, is_again = [], True
    if not found:
        answer = JoinedLoad(insert_load(conn, new, source_id, None), new.path, Joined.NEW, is_again=is_again)
    else:
        answer = _join_existing(conn, new, found[0])
    run(conn, "join_load", {"run_id": new.run_id, "load_id": answer.load_id, "path": new.path, "joined": answer.joined})
    return answer


def lock_source(conn: psycopg.Connection, identity: Identity) -> int:
    """The number of a source, new or known; who asks for the same one waits until the caller's transaction ends."""
    [source] = rows(conn, "find_source", {"size_bytes": identity.size_bytes, "digest": identity.digest})
    return int(source["id"])


def insert_load(conn: psycopg.Connection, new: NewLoad, source_id: int, replay_of: int | None) -> int:
    """Make a load of a source, of which replay_of may be the load whose rejects it replays; return its number."""
    columns = {
        "source_id": source_id,
        "pipeline_name": new.pipeline_name,
        "pipeline_version": new.pipeline_version,
        "options": new.options,
        "run_id": new.run_id,
        "path": new.path,
        "code_hash": new.code_hash,
        "chunk_lines": new.chunk_lines,
        "max_chunk_bytes": new.max_chunk_bytes,
        "max_line_bytes": new.max_line_bytes,
        "estimated_lines": new.estimated_lines,
        "replay_of": replay_of,
    }
    [made] = rows(conn, "insert_load", columns)
    return int(made["id"])


def _join_existing(conn: psycopg.Connection, new: NewLoad, load: Mapping[str, Any]) -> JoinedLoad:
    load_id, owner = load["id"], load["owner_run_id"]
    if owner == new.run_id:
        return JoinedLoad(load_id, new.path, Joined.NEW, (f"{new.path}: the same file under another path: loaded once",))
    if load["finished"]:
        return JoinedLoad(load_id, new.path, Joined.SKIPPED, _of_finished(conn, new, load))
    notices = []
    if load["code_hash"] != new.code_hash:
        notices.append(
            f"{new.path}: the pipeline's code has changed since the load was begun{_tables_changed(conn, owner, new.run_id)}, its version "
            f"{new.pipeline_version!r} has not: chunks loaded before keep the old code's rows; "
            "give it a new version to load everything anew"
        )
    if new.chunk_lines_given and new.chunk_lines != load["chunk_lines"]:
        notices.append(f"{new.path}: --chunk-lines is ignored: the load was begun with {load['chunk_lines']} lines a chunk")
    if RunState(load["owner_state"]) in (RunState.QUEUED, RunState.RUNNING):
        notices.insert(0, f"{new.path}: is being loaded by run {owner}: this run waits for it")
        return JoinedLoad(load_id, new.path, Joined.ATTACHED, tuple(notices))
    run(conn, "resume_load", {"load_id": load_id, "run_id": new.run_id, "path": new.path, "code_hash": new.code_hash})
    verbs.replay(conn, load_id)
    of = "?" if load["n_chunks"] is None else load["n_chunks"]
    notices.insert(0, f"{new.path}: goes on: {load['n_succeeded']} of {of} chunks are loaded")
    return JoinedLoad(load_id, new.path, Joined.RESUMED, tuple(notices))


def _of_finished(conn: psycopg.Connection, new: NewLoad, load: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person who types a finished load again should know: their mended code changes nothing of it by itself."""
    owner = load["owner_run_id"]
    told = [f"{new.path}: loaded already by run {owner}: skipped"]
    if load["code_hash"] != new.code_hash:
        told.append(
            f"{new.path}: the pipeline's code has changed since run {owner} loaded it{_tables_changed(conn, owner, new.run_id)}, "
            f"its version {new.pipeline_version!r} has not: it stays as it is; a new version loads it anew, and so does --again"
        )
    [still_open] = rows(conn, "count_open_rejects", {"load_ids": [load["id"]]})
    if still_open["n_lines"]:
        told.append(
            f"{new.path}: still refused of its lines: {still_open['n_lines']:,}; once their cause is mended, this loads them: "
            f"protheon rejects replay {owner} {YOUR_PIPELINE}"
        )
    return tuple(told)


def _tables_changed(conn: psycopg.Connection, before: int, now: int) -> str:
    """`` (its tables: shop.tb is new, shop.ta is no more)``; empty where names and columns are what they were."""
    packed = (json.loads(pipeline_of(conn, run_id)["tables_json"]) for run_id in (before, now))
    old, new = ({table.name: table for table in map(Table.from_json, tables)} for tables in packed)
    told = [f"{name} is new" for name in new if name not in old] + [f"{name} is no more" for name in old if name not in new]
    for name in [name for name in new if name in old]:
        was, now_is = ({column.name: column.type for column in tables[name].columns} for tables in (old, new))
        differing = [column for column in {**now_is, **was} if was.get(column) != now_is.get(column)]
        if differing:
            told.append(f"{name} has other columns ({', '.join(differing)})")
    return f" (its tables: {'; '.join(told)})" if told else ""


@dataclass(frozen=True, slots=True)
class LostRows:
    """A load whose rows are in no table any more: the table is gone or empty."""

    identity: Identity
    finished: bool
    owner_run: int
    table: str
    n_rows: int


def lost_rows(
    conn: psycopg.Connection, identities: Sequence[Identity], pipeline: Mapping[str, str], tables: Sequence[str]
) -> list[LostRows]:
    """Loads of these sources that have rows in these tables, which have none; not those that a run works on.

    pipeline: pipeline_name, pipeline_version and options, the rest of a load's identity.
    """
    params = {
        "sizes": [identity.size_bytes for identity in identities],
        "digests": [identity.digest for identity in identities],
        "tables": list(tables),
        **pipeline,
    }
    return [
        LostRows(Identity(row["size_bytes"], row["digest"]), row["finished"], row["owner_run_id"], row["table_name"], row["n_rows"])
        for row in rows(conn, "lost_rows", params)
    ]


def start_run(conn: psycopg.Connection, run_id: int, notices: Sequence[str]) -> None:
    """A queued run whose loads are joined starts."""
    run(conn, "start_run", {"run_id": run_id, "notices": list(notices)})


def pause_run(conn: psycopg.Connection, run_id: int, reason: str, *, by: Lease | None = None) -> bool:
    """Stop dispatching a running run; what runs now runs on. False: it was not running, or is resumed since.

    by: the attempt that met what stands in the way. One from before the run was resumed does not pause it again.
    """
    task_id, attempt_no = (by.task_id, by.attempt_no) if by is not None else (None, None)
    return bool(rows(conn, "pause_run", {"run_id": run_id, "reason": reason, "task_id": task_id, "attempt_no": attempt_no}))


def resume_run(conn: psycopg.Connection, run_id: int, limit: RejectLimit | None, *, ephemeral: bool) -> bool:
    """Dispatch a paused run again, under limit where one is given; False: it was not paused.

    ephemeral: the cluster that goes on with it lives as long as one command.
    """
    params = {
        "run_id": run_id,
        "reject_limit_lines": limit.lines if limit else None,
        "reject_limit_fraction": limit.fraction if limit else None,
        "ephemeral": ephemeral,
    }
    return bool(rows(conn, "resume_run", params))


def note_progress(conn: psycopg.Connection, run_id: int, reason: str) -> RunState:
    """Say what a running run is doing beside its chunks, as its reason, and return the run's state. In a transaction of its own."""
    [row] = rows(conn, "note_progress", {"run_id": run_id, "reason": reason})
    return RunState(row["state"])


def end_run(conn: psycopg.Connection, run_id: int, state: RunState, reason: str | None, *, seen: OpenRun | None = None) -> bool:
    """Bring a run to a final state; False: it had one, or was resumed, or got dead chunks back, since it was seen with nothing to do."""
    is_seen, resumed_at = (True, seen.resumed_at) if seen is not None else (False, None)
    params = {"run_id": run_id, "state": state, "reason": reason, "is_seen": is_seen, "resumed_at": resumed_at, "now": None}
    return bool(rows(conn, "end_run", params))


def cancel_run(conn: psycopg.Connection, run_id: int, reason: str) -> bool:
    """Cancel a run: loads that another live run waits for go to that run, the tasks of the others are cancelled.

    Guarantee: idempotent; what was loaded stays. Tasks that complete or are claimed at this very moment are left for
    verbs.cancel, which a coordinator repeats.
    """
    rows(conn, "hand_over_loads", {"run_id": run_id})
    ended = end_run(conn, run_id, RunState.CANCELLED, reason)
    verbs.cancel(conn)
    return ended


def adopt_orphans(conn: psycopg.Connection) -> list[int]:
    """Give loads whose owner is cancelled or paused to the oldest running run that waits for them; return the loads.

    What was cancelled with the owner is ready again. Guarantee: idempotent; the caller's transaction holds the loads.
    """
    orphans = rows(conn, "orphaned_loads")
    for row in orphans:
        run(conn, "resume_load", {name: row[name] for name in ("load_id", "run_id", "path", "code_hash")})
        if row["owner_ended"]:
            verbs.replay(conn, row["load_id"])
    return [row["load_id"] for row in orphans]


def ephemeral_attempts(conn: psycopg.Connection, *, with_tasks: bool) -> list[Seen]:
    """Open attempts (task and attempt_no) of runs whose cluster lived as long as one command; with_tasks: and of tasks without a run."""
    return [Seen(row["task_id"], row["attempt_no"]) for row in rows(conn, "ephemeral_attempts", {"with_tasks": with_tasks})]


def ephemeral_runs(conn: psycopg.Connection) -> list[int]:
    """Running runs whose cluster lived as long as one command."""
    return [row["id"] for row in rows(conn, "ephemeral_runs")]


@dataclass(frozen=True, slots=True)
class PendingSplit:
    """A load of a running run whose source is still to be cut, and where to go on."""

    load_id: int
    run_id: int
    path: str
    identity: Identity
    chunk_lines: int
    max_chunk_bytes: int
    max_line_bytes: int
    last: ChunkManifest | None
    replay_of: int | None = None  # the load whose rejects the source holds


def _split_in(row: Mapping[str, Any], last: ChunkManifest | None) -> PendingSplit:
    return PendingSplit(
        row["load_id"],
        row["owner_run_id"],
        row["path"],
        Identity(row["size_bytes"], row["digest"]),
        row["load_chunk_lines"],
        row["max_chunk_bytes"],
        row["max_line_bytes"],
        last,
        row["replay_of"],
    )


def pending_splits(conn: psycopg.Connection) -> list[PendingSplit]:
    """Loads of running runs whose source is still to be cut, oldest first."""
    return [_split_in(row, None if row["chunk_no"] is None else verbs.manifest_of(row)) for row in rows(conn, "pending_loads")]


def split_started(conn: psycopg.Connection, load_id: int) -> None:
    """A splitter is at work on the load."""
    run(conn, "split_started", {"load_id": load_id})


def split_ended(
    conn: psycopg.Connection,
    epoch: int,
    load_id: int,
    state: SplitState,
    *,
    message: str | None = None,
    damaged_at_bytes: int | None = None,
    n_chunks: int | None = None,
) -> None:
    """Note how a split ended. Raises LeadershipLost: nothing was written."""
    params = {
        "epoch": epoch,
        "load_id": load_id,
        "split_state": state,
        "message": message,
        "damaged_at_bytes": damaged_at_bytes,
        "n_chunks": n_chunks,
    }
    if not rows(conn, "split_ended", params):
        raise LeadershipLost(epoch)


def add_notice(conn: psycopg.Connection, load_id: int, notice: str) -> None:
    """Tell the open runs of a load something about its source. Idempotent."""
    run(conn, "add_notice", {"load_id": load_id, "notice": notice})


def finish_loads(conn: psycopg.Connection) -> list[int]:
    """Mark loads whose every chunk has succeeded, without a gap between manifests; return them."""
    return [row["id"] for row in rows(conn, "finish_loads", {"now": None})]


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended, and what decides whether it can."""

    run_id: int
    state: RunState
    n_live_loads: int
    n_unfinished: int
    messages: tuple[str, ...]
    limit: RejectLimit
    resumed_at: datetime | None = None


def reject_limit(lines: int | None, fraction: float | None) -> RejectLimit:
    """The limit of a run from its two columns."""
    return RejectLimit(lines=lines, fraction=fraction)


def open_runs(conn: psycopg.Connection) -> list[OpenRun]:
    """Runs that are running or paused."""
    return [
        OpenRun(
            row["id"],
            RunState(row["state"]),
            row["n_live_loads"],
            row["n_unfinished"],
            tuple(row["messages"]),
            reject_limit(row["reject_limit_lines"], row["reject_limit_fraction"]),
            row["resumed_at"],
        )
        for row in rows(conn, "open_runs")
    ]


@dataclass(frozen=True, slots=True)
class Committed:
    """Committed lines and rejects of a run's loads, and tasks that are dead."""

    lines: int
    own_lines: int  # loaded by the run itself
    rejected: int
    dead: int
    purged: int = 0  # of the dead ones: given up by a person


def count_lines(conn: psycopg.Connection, run_id: int) -> Committed:
    """Sums over the run's loads, whoever loaded them."""
    [row] = rows(conn, "count_lines", {"run_id": run_id})
    return Committed(row["lines"], row["own_lines"], row["rejected"], row["dead"], row["purged"])


def latest_run(conn: psycopg.Connection) -> int:
    """The number of the newest run. Raises NotFound: there is none."""
    [row] = rows(conn, "latest_run")
    if row["id"] is None:
        raise NotFound("there is no run yet: start one with `protheon load PATH`, or try `protheon demo`")
    return int(row["id"])


def existing_run(conn: psycopg.Connection, run_id: int | None = None) -> int:
    """The number of a run that there is; None is the latest. Raises NotFound."""
    number = run_id or latest_run(conn)
    if not rows(conn, "run_exists", {"run_id": number}):
        raise NotFound(f"there is no run {number}: `protheon runs` lists them")
    return number


def limit_of(conn: psycopg.Connection, run_id: int) -> RejectLimit:
    """The reject limit of a run."""
    [row] = rows(conn, "limit_of", {"run_id": run_id})
    return reject_limit(row["reject_limit_lines"], row["reject_limit_fraction"])


def keeps_checksums(conn: psycopg.Connection, run_id: int) -> bool:
    """Tell whether the run was submitted with checksums of its rows."""
    [row] = rows(conn, "keeps_checksums", {"run_id": run_id})
    return bool(row["checksum"])


def pipeline_of(conn: psycopg.Connection, run_id: int) -> dict[str, Any]:
    """The columns of a run's pipeline, as pipelines.find.PackedPipeline names them."""
    [row] = rows(conn, "get_pipeline", {"run_id": run_id})
    return dict(row)


def split_of(conn: psycopg.Connection, load_id: int) -> tuple[PendingSplit, RunState]:
    """What a splitter needs to cut chunks of this load again, and the state of its owner."""
    [row] = rows(conn, "get_load", {"load_id": load_id})
    return _split_in(row, None), RunState(row["run_state"])


def idle_loads(conn: psycopg.Connection, load_ids: Sequence[int]) -> dict[int, RunState]:
    """Those of these loads whose owner is not running, with its state."""
    return {row["load_id"]: RunState(row["run_state"]) for row in rows(conn, "idle_loads", {"load_ids": list(load_ids)})}


def abandon_queued(conn: psycopg.Connection) -> list[int]:
    """Cancel runs whose submission a broker that is gone did not finish; return them."""
    return [row["id"] for row in rows(conn, "abandon_queued", {"now": None})]


def add_wire_bytes(conn: psycopg.Connection, task_id: int, n_bytes: int) -> None:
    """Chunk bytes that were sent, added to the run that owns the chunk's load."""
    run(conn, "add_wire_bytes", {"task_id": task_id, "n_bytes": n_bytes})
