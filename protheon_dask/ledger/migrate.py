"""Numbered, forward-only migrations of the schema ``protheon``."""

from __future__ import annotations

import re
from importlib import resources

import psycopg

from protheon_dask.errors import MigrationPending
from protheon_dask.ledger.connect import connect, translated

ADVISORY_CLASS = 0x50524F  # "PRO": Protheon's first key in two-integer advisory locks
LOCK_LEADERSHIP, LOCK_MIGRATIONS, LOCK_TARGETS = 1, 2, 3  # second keys

_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")


def migrations() -> list[tuple[int, str, str]]:
    """The migrations of this version: (number, name, SQL), ascending from 1 without a gap."""
    found = []
    for entry in resources.files("protheon_dask.ledger").joinpath("migrations").iterdir():
        if match := _FILE.match(entry.name):
            found.append((int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return sorted(found)


def applied(conn: psycopg.Connection) -> int:
    """The number of the newest migration in this database; 0 where Protheon never was."""
    if conn.execute("SELECT to_regclass('protheon.migration')").fetchone() == (None,):
        return 0
    row = conn.execute("SELECT coalesce(max(version), 0) FROM protheon.migration").fetchone()
    assert row is not None
    return int(row[0])


def migrate(url: str) -> list[str]:
    """Bring the ledger up to this version and return the names of what ran (none: it was up to date).

    Raises:    MigrationPending: the ledger is newer than this version. LedgerUnavailable, ConfigError: as connect.
    Guarantee: each migration is one transaction; two callers at once take turns; safe to repeat.
    """
    ran = []
    with connect(url, application="protheon-migrate") as conn, translated():
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (ADVISORY_CLASS, LOCK_MIGRATIONS))
        check_not_newer(applied(conn))
        for version, name, sql in migrations():
            if version > applied(conn):
                with conn.transaction():
                    conn.execute(sql.encode())
                    conn.execute("INSERT INTO protheon.migration (version, name) VALUES (%s, %s)", (version, name))
                ran.append(f"{version:04d}_{name}")
    return ran


def check_not_newer(version: int) -> None:
    """Refuse a ledger that a newer Protheon has changed."""
    newest = migrations()[-1][0]
    if version > newest:
        raise MigrationPending(
            f"the ledger is at migration {version}, this Protheon knows {newest}: upgrade Protheon here (pip install -U protheon-dask)"
        )


def check_current(conn: psycopg.Connection) -> None:
    """Refuse to work on a ledger that is older or newer than this version."""
    version = applied(conn)
    check_not_newer(version)
    newest = migrations()[-1][0]
    if version < newest:
        raise MigrationPending(f"the ledger is at migration {version}, this Protheon needs {newest}: run `protheon db migrate`")
