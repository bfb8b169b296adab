"""What a PostgreSQL is to Protheon: its version, the role's rights, and the connections that are left. For ``protheon doctor``.

Nothing is written, and nothing is tried: rights are asked for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Final

import psycopg

from protheon_dask.ledger.connect import translated
from protheon_dask.ledger.migrate import applied, migrations
from protheon_dask.ledger.rows import rows

ASKED: Final = 5
"""Round trips of which the middle one counts: one that met a busy moment does not."""
SENT_BYTES: Final = (256 << 10, 8 << 20)
"""Sent to the server to see how fast that goes: the second only where the first came through in SHORT_S."""
SHORT_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server, a database and a role, as the role sees them."""

    version: str
    is_standby: bool
    is_read_only: bool
    is_superuser: bool
    max_connections: int
    reserved: int  # of these for others than this role
    role_limit: int  # -1: none
    database_limit: int  # -1: none
    in_use: int  # connections of clients, all databases
    in_use_role: int
    in_use_database: int
    ours: int  # of this role and database, by Protheon's processes
    may_create_schema: bool
    may_create_temporary: bool
    schema_name: str | None  # where tables go whose pipeline names no other; None: no schema of the search path exists
    may_create_table: bool  # there
    has_ledger: bool
    migration: int = 0  # of the ledger; 0: none, or this role may not read it
    newest_migration: int = 0  # that this version knows
    lacks: tuple[str, ...] = ()  # tables of the ledger that the role may not use
    closed: tuple[str, ...] = ()  # tables of runs that it may not read and fill


@dataclass(frozen=True, slots=True)
class ServerWay:
    """The way to the server, and its clock. Units: clock_offset_s: our clock less the server's, right within clock_error_s."""

    latency_s: float
    bytes_per_s: float
    clock_offset_s: float
    clock_error_s: float


def server_facts(conn: psycopg.Connection) -> ServerFacts:
    """What the server says of itself and of the role. Raises ConfigError, LedgerUnavailable."""
    with translated():
        [row] = rows(conn, "server_facts")
        more: dict[str, Any] = {"newest_migration": migrations()[-1][0]}
        if row["has_ledger"]:
            try:
                more["migration"] = applied(conn)
                more["lacks"] = tuple(found["name"] for found in rows(conn, "lacks_rights"))
                if not more["lacks"]:
                    more["closed"] = tuple(found["name"] for found in rows(conn, "closed_tables"))
            except psycopg.errors.InsufficientPrivilege:
                more["lacks"] = ("all",)
    return ServerFacts(**{name: row[name] for name in (field.name for field in fields(ServerFacts)) if name in row}, **more)


def server_way(conn: psycopg.Connection) -> ServerWay:
    """Measure the way to the server: takes some round trips and up to 8 MiB. In no transaction. Raises as server_facts()."""
    with translated():
        looks = [_look(conn) for _ in range(ASKED)]
        took_s, offset_s = min(looks)  # the quickest says most of the clock
        sent = [_send(conn, SENT_BYTES[0])]
        if SENT_BYTES[0] / sent[0] < SHORT_S:
            sent.append(_send(conn, SENT_BYTES[1]))
    return ServerWay(median(took_s for took_s, _ in looks), sent[-1], offset_s, took_s / 2)


def _look(conn: psycopg.Connection) -> tuple[float, float]:
    """Seconds of a round trip, and our clock less the server's."""
    asked_at, asked_s = time.time(), time.perf_counter()
    row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::double precision").fetchone()
    took_s = time.perf_counter() - asked_s
    assert row is not None, "a SELECT without FROM has one row"
    return took_s, asked_at + took_s / 2 - row[0]


def _send(conn: psycopg.Connection, n_bytes: int) -> float:
    """Bytes a second on their way to the server, which counts them."""
    began_s = time.perf_counter()
    conn.execute("SELECT octet_length(%b::bytea)", (bytes(n_bytes),))
    return n_bytes / max(1e-9, time.perf_counter() - began_s)


__all__ = ["ServerFacts", "ServerWay", "server_facts", "server_way"]
