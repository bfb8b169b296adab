"""Who leads: a session advisory lock on a direct connection, and the epoch that fences a coordinator's writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from protheon_dask.ledger.migrate import ADVISORY_CLASS, LOCK_LEADERSHIP
from protheon_dask.ledger.rows import rows


@dataclass(frozen=True, slots=True)
class Leadership:
    """Held as long as the connection that took it lives."""

    epoch: int
    ledger_id: UUID


def take(conn: psycopg.Connection, broker_uuid: UUID) -> Leadership | None:
    """Take the lead on this direct connection, which must stay open; None: another broker leads.

    Guarantee: kill -9 of the holder frees it at once; a new leader's epoch fences out what the old one still sends.
    """
    held = conn.execute("SELECT pg_try_advisory_lock(%s, %s)", (ADVISORY_CLASS, LOCK_LEADERSHIP)).fetchone()
    if held != (True,):
        return None
    [row] = rows(conn, "take_leadership", {"broker_uuid": broker_uuid, "now": None})
    return Leadership(row["epoch"], row["ledger_id"])


def end_own_session(conn: psycopg.Connection, broker_uuid: UUID) -> bool:
    """End the session that still holds the lead for this broker, which lost it without the server's knowing; then take() again.

    False: another broker has led since; nothing was ended.
    """
    params = {"broker_uuid": broker_uuid, "lock_class": ADVISORY_CLASS, "lock": LOCK_LEADERSHIP}
    return bool(rows(conn, "end_leader", params))


def is_led(conn: psycopg.Connection) -> bool:
    """Does a broker lead this ledger now, whoever it is? Any connection may ask."""
    [row] = rows(conn, "is_led", {"lock_class": ADVISORY_CLASS, "lock": LOCK_LEADERSHIP})
    return bool(row["is_led"])


@dataclass(frozen=True, slots=True)
class Leader:
    """The session that leads, as PostgreSQL sees it."""

    client_address: str | None  # None: over a socket, or it is not for this role to see
    since_at: datetime | None

    def __str__(self) -> str:
        told = f"connected from {self.client_address or 'a host that PostgreSQL does not name'}"
        return told + (f" since {self.since_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.since_at else "")


def leader(conn: psycopg.Connection) -> Leader | None:
    """Who leads this ledger now; None: nobody. Any connection may ask."""
    found = rows(conn, "who_leads", {"lock_class": ADVISORY_CLASS, "lock": LOCK_LEADERSHIP})
    return Leader(found[0]["client_address"], found[0]["since_at"]) if found else None
