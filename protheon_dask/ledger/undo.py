"""Loads whose rows are deleted again: what the ledger knows of them, and how it is noted.

Each function takes the connection first, works in the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from protheon_dask.errors import ConfigError
from protheon_dask.ledger.migrate import ADVISORY_CLASS
from protheon_dask.ledger.rows import rows, run
from protheon_dask.model import Identity

LOCK_UNDO = 5
"""Protheon's two-integer advisory lock that parts the beginning of an undo from that of a run: each sees the other whole."""


@dataclass(frozen=True, slots=True)
class Member:
    """A load that is undone: the one that was named, or a replay of its rejects."""

    load_id: int
    root_id: int
    replay_of: int | None
    path: str
    source_id: int
    owner_run_id: int
    undo_started_at: datetime | None
    undone_at: datetime | None
    n_running: int
    tables: str  # JSON: of its owner's pipeline
    reference: str  # of that pipeline


def family(conn: psycopg.Connection, load_ids: Sequence[int]) -> list[Member]:
    """These loads and the replays of their rejects, locked until the transaction ends."""
    return [Member(**row) for row in rows(conn, "load_family", {"load_ids": list(load_ids)})]


def take_turns(conn: psycopg.Connection, load_ids: Sequence[int]) -> None:
    """Let submissions of the sources of these loads, and other undos, wait until the transaction ends."""
    rows(conn, "lock_sources", {"load_ids": list(load_ids)})


def keep_runs_out(conn: psycopg.Connection) -> None:
    """No run is made until the transaction ends; those that are being made are waited for."""
    conn.execute("SELECT pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_UNDO))


def refuse_while_undoing(conn: psycopg.Connection, run_id: int) -> None:
    """Raise ConfigError if a new run, not yet committed, would build on rows that are being deleted.

    Guarantee: until the caller's transaction ends no undo begins; the next one sees the run.
    """
    conn.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (ADVISORY_CLASS, LOCK_UNDO))
    for row in rows(conn, "undoing_tables", {"run_id": run_id}):
        raise ConfigError(
            f"table {row['table_name']}: the rows of load {row['load_id']} are being deleted, and new rows would be judged by them: "
            f"wait for its end; `protheon undo {row['load_id']}` goes on with it where it was interrupted"
        )


def live_runs(conn: psycopg.Connection, load_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Runs that have not ended, with their tables (JSON) and those of these loads that they have."""
    return list(rows(conn, "live_runs", {"load_ids": list(load_ids)}))


def rows_of(conn: psycopg.Connection, load_ids: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Rows that the loads inserted into each table, and updated there."""
    return {row["table_name"]: (row["inserted"], row["updated"]) for row in rows(conn, "rows_of_loads", {"load_ids": list(load_ids)})}


def has_checksums(conn: psycopg.Connection, load_ids: Sequence[int]) -> bool:
    """Do these loads have checksums of their rows?"""
    return any(row["has_checksums"] for row in rows(conn, "rows_of_loads", {"load_ids": list(load_ids)}))


def built_upon(conn: psycopg.Connection, load_ids: Sequence[int], tables: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of other loads that may stand on rows of these in a way that cannot be taken apart, by table and load."""
    return list(rows(conn, "built_upon", {"load_ids": list(load_ids), "table_names": list(tables)}))


def chunks_of(conn: psycopg.Connection, load_ids: Sequence[int]) -> dict[int, int]:
    """The loads' tasks, each with the load that its rows are counted for."""
    return {row["task_id"]: row["root_id"] for row in rows(conn, "chunks_of_loads", {"load_ids": list(load_ids)})}


def start(conn: psycopg.Connection, members: Sequence[Member], tables: Mapping[str, bool]) -> None:
    """Note that the rows of these loads are being deleted. tables: of them, and whether no run may load into them meanwhile. Idempotent."""
    params = {
        "load_ids": [member.load_id for member in members],
        "root_ids": sorted({member.root_id for member in members}),
        "table_names": list(tables),
        "keeps_out": list(tables.values()),
        "now": None,
    }
    run(conn, "start_undo", params)


def count(conn: psycopg.Connection, table: str, deleted_rows: Mapping[int, int]) -> None:
    """Add rows that this transaction deletes, by the load that they are counted for."""
    for load_id, n_rows in deleted_rows.items():
        run(conn, "count_undone", {"load_id": load_id, "table_name": table, "deleted_rows": n_rows})


def end(conn: psycopg.Connection, load_ids: Sequence[int]) -> list[int]:
    """Note that no row of these loads is left; return those that were not undone before."""
    return [row["load_id"] for row in rows(conn, "end_undo", {"load_ids": list(load_ids), "now": None})]


def deleted(conn: psycopg.Connection, load_ids: Sequence[int]) -> dict[str, int]:
    """Rows of these loads that were deleted, by table."""
    return {row["table_name"]: row["deleted_rows"] for row in rows(conn, "undo_counts", {"load_ids": list(load_ids)})}


def refuse_being_undone(conn: psycopg.Connection, identity: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError if a load of this identity loses its rows just now; the caller holds its source."""
    for row in rows(conn, "undoing_loads", identity):
        raise ConfigError(
            f"{path}: its load {row['id']} is being undone: wait for the end of that; "
            f"`protheon undo {row['id']}` goes on with it where it was interrupted"
        )


def to_replace(
    conn: psycopg.Connection, identity: Identity, pipeline_name: str, pipeline_version: str, options: str, code_hash: bytes
) -> list[int]:
    """Loads of a source that a submission with --replace undoes first.

    Guarantee: not a load that the same code began after an undo, and did not finish: it is what replaces, and goes on.
    """
    params = {
        "size_bytes": identity.size_bytes,
        "digest": identity.digest,
        "pipeline_name": pipeline_name,
        "pipeline_version": pipeline_version,
        "options": options,
    }
    return [
        row["id"]
        for row in rows(conn, "loads_to_replace", params)
        if row["finished"] or not row["after_undo"] or row["code_hash"] != code_hash
    ]


def loads_beside(
    conn: psycopg.Connection, sources: Mapping[Identity, str], pipeline_name: str, pipeline_version: str, options: str
) -> list[dict[str, Any]]:
    """Loads of other versions of a pipeline, or of other contents of the same paths, whose rows stand. sources: paths by what they hold."""
    params = {
        "paths": list(sources.values()),
        "sizes": [identity.size_bytes for identity in sources],
        "digests": [identity.digest for identity in sources],
        "pipeline_name": pipeline_name,
        "pipeline_version": pipeline_version,
        "options": options,
    }
    return list(rows(conn, "loads_beside", params))
