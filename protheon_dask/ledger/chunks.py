"""Manifests in the ledger: what the workspace should hold, where a chunk's bytes are, and what a re-cut changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg

from protheon_dask.errors import LeadershipLost, NotFound
from protheon_dask.ledger import verbs
from protheon_dask.ledger.rows import rows
from protheon_dask.model import ChunkManifest, Identity, RejectedLine, TaskState


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A chunk whose file the workspace should hold, or may park."""

    task_id: int
    load_id: int
    state: TaskState
    owner_runs: bool  # False: the run that gates its task is paused, queued or has ended
    manifest: ChunkManifest

    @property
    def is_waiting(self) -> bool:
        """Is nobody about to read it? Then its file must not hold the splitters back."""
        return self.state is TaskState.DEAD or (self.state is TaskState.READY and not self.owner_runs)


def stored(conn: psycopg.Connection, load_id: int | None = None) -> list[StoredManifest]:
    """Manifests of tasks that may still run, and of dead ones that were not purged, of one load or of all."""
    return [
        StoredManifest(row["task_id"], row["load_id"], TaskState(row["state"]), row["owner_runs"], verbs.manifest_of(row))
        for row in rows(conn, "stored_chunks", {"load_id": load_id})
    ]


def purged(conn: psycopg.Connection, load_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Load and first line of the dead chunks of these loads that were given up."""
    return [(row["load_id"], row["first_line"]) for row in rows(conn, "purged_chunks", {"load_ids": list(load_ids)})]


def enqueue_oversized(
    conn: psycopg.Connection, epoch: int, load_id: int, run_id: int, manifest: ChunkManifest, raw: bytes, host: str, process_uuid: UUID
) -> int:
    """A line beyond max_line_bytes: a chunk by itself, born succeeded with its one reject, in the caller's transaction.

    Guarantee: idempotent, as verbs.enqueue.
    """
    task_id = verbs.enqueue(conn, epoch, load_id, manifest)
    born = rows(
        conn,
        "born_attempt",
        {
            "task_id": task_id,
            "run_id": run_id,
            "token": uuid4(),
            "process_uuid": process_uuid,
            "host": host,
            "raw_bytes": manifest.raw_bytes,
            "now": None,
        },
    )
    if not born:
        return task_id
    reason = f"the line has {manifest.raw_bytes:,} bytes, more than max_line_bytes"
    line = RejectedLine(manifest.first_line, manifest.byte_offset, None, reason, None, None, raw, manifest.raw_bytes)
    verbs.reject(conn, load_id, task_id, 1, [line])
    return task_id


def restored(conn: psycopg.Connection, epoch: int, load_id: int, manifest: ChunkManifest) -> int:
    """Note the new stored form of a chunk that was cut again; return its task. Raises LeadershipLost."""
    params = {
        "epoch": epoch,
        "load_id": load_id,
        "first_line": manifest.first_line,
        "generation": manifest.generation,
        "stored_bytes": manifest.stored_bytes,
        "stored_xxh3": manifest.stored_xxh3,
    }
    found = rows(conn, "restored", params)
    if not found:
        raise LeadershipLost(epoch)
    return int(found[0]["task_id"])


@dataclass(frozen=True, slots=True)
class Location:
    """Which file a chunk's bytes are in."""

    load_id: int
    first_line: int
    generation: int
    stored_bytes: int
    state: TaskState


def locate(conn: psycopg.Connection, task_id: int) -> Location:
    """Where a chunk's bytes are to be found. Raises NotFound."""
    found = rows(conn, "locate_chunk", {"task_id": task_id})
    if not found:
        raise NotFound(f"there is no chunk {task_id} in this ledger")
    row = found[0]
    return Location(row["load_id"], row["first_line"], row["generation"], row["stored_bytes"], TaskState(row["state"]))


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk with what is needed to run its pipeline on its bytes. run_id: whose pipeline; path, identity: of the file that was cut."""

    task_id: int
    load_id: int
    run_id: int
    replay_of: int | None
    path: str
    identity: Identity
    manifest: ChunkManifest


def of_task(conn: psycopg.Connection, task_id: int) -> FoundChunk:
    """The chunk of a task. Raises NotFound: there is none, or it is of the general queue."""
    return _found(conn, {"task_id": task_id, "load_id": None, "line": None}, f"task {task_id} is no chunk of this ledger")


def of_line(conn: psycopg.Connection, load_id: int, line_no: int) -> FoundChunk:
    """The chunk of a load in which a line is. Raises NotFound: it has no such line, or it is not cut yet."""
    told = f"load {load_id} has no line {line_no:,}, or none that is cut by now"
    return _found(conn, {"task_id": None, "load_id": load_id, "line": line_no}, told)


def _found(conn: psycopg.Connection, params: dict[str, int | None], missing: str) -> FoundChunk:
    found = rows(conn, "find_chunk", params)
    if not found:
        raise NotFound(missing)
    row = found[0]
    identity = Identity(row["size_bytes"], row["digest"])
    source = (row["replay_of"], row["load_path"], identity)
    return FoundChunk(row["task_id"], row["load_id"], row["run_id"], *source, verbs.manifest_of(row))
