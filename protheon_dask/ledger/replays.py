"""Refused lines that are sent through a pipeline again: which there are, which replay has them, and what became of them.

A replay is a load of a file that holds the lines. While it may go on its lines wait in it; one that ended without them is
retired, and they are free for the next. Each function takes the connection first and works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from protheon_dask.errors import InvariantError
from protheon_dask.ledger import verbs
from protheon_dask.ledger.migrate import ADVISORY_CLASS
from protheon_dask.ledger.rows import rows, run
from protheon_dask.ledger.runs import NewLoad, insert_load, lock_source
from protheon_dask.ledger.statements import statement
from protheon_dask.model import Identity, Joined, RunState
from protheon_dask.postgres import NO_TIMEOUTS

REPLAY_CLASS = ADVISORY_CLASS + 1
"""First key of two-integer advisory locks: replays of one load take turns; the second is the load's."""
FETCH_ROWS = 200
"""Rejects that a cursor fetches at a time: at 64 KiB each that is 12 MiB."""
HOLD_ROWS = 10_000
"""Rejects that one statement notes."""


@dataclass(frozen=True, slots=True)
class Original:
    """A load whose rejects are replayed; path is where its source was found."""

    load_id: int
    path: str
    identity: Identity
    is_retired: bool


@dataclass(frozen=True, slots=True)
class LiveReplay:
    """A replay that may still go on, and how many lines wait in it."""

    load_id: int
    replay_of: int
    run_id: int
    state: RunState
    n_lines: int


@dataclass(frozen=True, slots=True)
class FreeReject:
    """A refused line that waits in no replay. start: where decompression of its source may start, where raw is not all of it."""

    reject_id: int
    line_no: int
    byte_offset: int
    raw: bytes
    raw_bytes: int
    start: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line of a replay's file stands in the source that it came from."""

    line_no: int
    byte_offset: int


def originals(conn: psycopg.Connection, run_id: int) -> list[Original]:
    """The loads that a run's rejects are of: its own, and for a replay those that it replays."""
    return [
        Original(row["load_id"], row["path"], Identity(row["size_bytes"], row["digest"]), row["is_retired"])
        for row in rows(conn, "replay_originals", {"run_id": run_id})
    ]


def count_open(conn: psycopg.Connection, load_ids: Sequence[int]) -> tuple[int, int]:
    """How many whole lines, and how many parts of lines, of these loads are still refused, waiting in a replay or not."""
    [row] = rows(conn, "count_open_rejects", {"load_ids": list(load_ids)})
    return row["n_lines"], row["n_parts"]


def are_replayed(conn: psycopg.Connection, load_ids: Sequence[int]) -> bool:
    """Was a replay of any of these loads made?"""
    return bool(rows(conn, "any_replay", {"load_ids": list(load_ids)}))


def live(conn: psycopg.Connection, load_ids: Sequence[int]) -> list[LiveReplay]:
    """Replays of these loads that may still go on."""
    return [
        LiveReplay(row["load_id"], row["replay_of"], row["run_id"], RunState(row["state"]), row["n_lines"])
        for row in rows(conn, "live_replays", {"load_ids": list(load_ids)})
    ]


def retire_dead(conn: psycopg.Connection, load_id: int) -> list[int]:
    """Retire the replays of this load that ended without all of their lines; return them.

    Guarantee: idempotent, in a transaction of its own: a chunk that is completing locks lines first, then its task, so no line may
               be taken in it. One whose dead chunks are made ready at this moment is either retired before, or goes on.
    """
    with conn.transaction():
        rows(conn, "lock_loads", {"load_ids": [load_id]})
        dead = [row["load_id"] for row in rows(conn, "dead_replays", {"load_id": load_id})]
        for replay_id in dead:
            retire(conn, replay_id)
    return dead


def retire(conn: psycopg.Connection, load_id: int) -> None:
    """Give a replay up: nothing more of it is loaded, and the lines that wait in it are free. A finished one stays as it is."""
    with conn.transaction():
        stopped = rows(conn, "retire_replay", {"load_id": load_id, "now": None})
        verbs.end_cancelled(conn, [row["task_id"] for row in stopped], "the replay was given up")


def take_turn(conn: psycopg.Connection, load_id: int) -> None:
    """Wait until no other transaction replays this load; held until the caller's ends, which may take as long as its files do."""
    conn.execute(NO_TIMEOUTS)
    conn.execute("SELECT set_config('idle_in_transaction_session_timeout', '0', true)")
    conn.execute("SELECT pg_advisory_xact_lock(%s, (%s::bigint %% 2147483647)::integer)", (REPLAY_CLASS, load_id))


def is_retired(conn: psycopg.Connection, load_id: int) -> bool:
    """Tell whether a load is retired, and keep it as it is until the caller's transaction ends."""
    [row] = rows(conn, "lock_original", {"load_id": load_id})
    return bool(row["is_retired"])


def free(conn: psycopg.Connection, load_id: int) -> Iterator[FreeReject]:
    """Whole lines of a load that are still refused and wait in no replay, in the order of lines, by a cursor of the server's."""
    with conn.cursor("free_rejects", row_factory=dict_row) as cursor:
        cursor.itersize = FETCH_ROWS
        for row in cursor.execute(statement("free_rejects"), {"load_id": load_id}):
            start = None if row["restart_raw_offset"] is None else (row["restart_stored_offset"], row["restart_raw_offset"])
            yield FreeReject(row["id"], row["line"], row["byte_offset"], row["raw"], row["raw_bytes"], start)


def begin(conn: psycopg.Connection, new: NewLoad, replay_of: int, shown_path: str, reject_ids: Sequence[int]) -> int:
    """Make the load of a replay's file, whose lines are these rejects' in this order; return its number.

    shown_path: what people see in the place of the file's path.
    Raises:    InvariantError: one of them is replayed already; roll back. The caller has the turn, so nobody else can have.
    """
    load_id = insert_load(conn, new, lock_source(conn, new.identity), replay_of)
    for start in range(0, len(reject_ids), HOLD_ROWS):
        some = list(reject_ids[start : start + HOLD_ROWS])
        held = rows(conn, "hold_rejects", {"load_id": load_id, "first_line": start + 1, "reject_ids": some})
        if len(held) != len(some):
            raise InvariantError(f"load {replay_of}: of {len(some)} rejects that were to be replayed {len(some) - len(held)} are already")
    run(conn, "join_load", {"run_id": new.run_id, "load_id": load_id, "path": shown_path, "joined": Joined.NEW})
    return load_id


def live_spools(conn: psycopg.Connection) -> set[str]:
    """Paths of the files of replays that may still be cut."""
    return {row["path"] for row in rows(conn, "live_spools")}


def places(conn: psycopg.Connection, load_id: int, first_line: int, n_lines: int) -> list[Place]:
    """Where these lines of a replay's file came from. Raises InvariantError: one of them waits in this replay no more."""
    params = {"load_id": load_id, "first_line": first_line, "last_line": first_line + n_lines - 1}
    found = [Place(row["line"], row["byte_offset"]) for row in rows(conn, "replay_places", params)]
    if len(found) != n_lines:
        raise InvariantError(f"replay {load_id}: of {n_lines} lines from line {first_line} on {len(found)} are still refused")
    return found


def mark_replayed(conn: psycopg.Connection, run_id: int, load_id: int, first_line: int, n_lines: int) -> None:
    """Close the rejects of a replay's chunk, in its data transaction. Raises InvariantError: it is not one for each of its lines."""
    params = {"run_id": run_id, "load_id": load_id, "first_line": first_line, "last_line": first_line + n_lines - 1}
    n_marked = len(rows(conn, "mark_replayed", params))
    if n_marked != n_lines:
        raise InvariantError(f"replay {load_id}: {n_marked} rejects are closed by {n_lines} lines from line {first_line} on")
