"""Numbered, forward-only migrations of the schema ``protheon``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import psycopg
from psycopg import sql

from protheon_dask.errors import ConfigError, MigrationPending, NotFound
from protheon_dask.ledger.connect import Connection, check_writable, connect, place_of, translated
from protheon_dask.ledger.embedded import NAME
from protheon_dask.ledger.rows import rows
from protheon_dask.postgres import NO_TIMEOUTS

ADVISORY_CLASS = 0x50524F  # "PRO": Protheon's first key in two-integer advisory locks
LOCK_LEADERSHIP, LOCK_MIGRATIONS, LOCK_TARGETS = 1, 2, 3  # second keys

DIGESTS_FROM = 4
"""The migration that brings their digests: what ran before it gets those of its own files, if the ledger's columns are theirs."""
SHAPE_BEFORE_DIGESTS = "95dede0ad506536efddf93295765edff3c7ce860287b8ebaefe502277dc18efa"
"""SHA-256 of what ledger_shape.sql gives before that migration; a test makes it anew."""

_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")
_COMMENT = re.compile(r"--[^\n]*")


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """The migrations of this version: (number, name, SQL), ascending from 1 without a gap."""
    found = []
    for entry in resources.files("protheon_dask.ledger").joinpath("migrations").iterdir():
        if match := _FILE.match(entry.name):
            found.append((int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return tuple(sorted(found))


def digest_of(text: str) -> str:
    """SHA-256 of a migration's statements; a comment that is worded anew, or another line end, makes no other migration of it."""
    return _sha256(" ".join(_COMMENT.sub("", text).split()))


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def shape_of(conn: Connection) -> str:
    """SHA-256 of the columns of the ledger's tables."""
    return _sha256("\n".join(row["told"] for row in rows(conn, "ledger_shape")))


def applied(conn: psycopg.Connection) -> int:
    """The number of the newest migration in this database; 0 where Protheon never was."""
    if conn.execute("SELECT to_regclass('protheon.migration')").fetchone() == (None,):
        return 0
    row = conn.execute("SELECT coalesce(max(version), 0) FROM protheon.migration").fetchone()
    assert row is not None
    return int(row[0])


def migrate(url: str) -> list[str]:
    """Bring the ledger up to this version and return the names of what ran (none: it was up to date).

    Raises:    MigrationPending: the ledger is newer than this version. LedgerUnavailable, ConfigError: as connect; also where
               the server only reads, and where the role may not make or use the ledger: the GRANTs that it needs follow.
    Guarantee: each migration is one transaction; two callers at once take turns; safe to repeat. No session is needed: a pooler
               may stand between.
    """
    ran = []
    with connect(url, application="protheon-migrate") as conn, translated(url), _telling_grants(conn, url):
        check_writable(conn, url)
        check_not_newer(applied(conn))
        check_same(conn)
        for version, name, text in migrations():
            if version <= applied(conn):
                continue
            with conn.transaction():
                conn.execute(NO_TIMEOUTS)
                conn.execute("SELECT pg_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, LOCK_MIGRATIONS))
                if version <= applied(conn):  # another caller was first
                    check_same(conn)
                    continue
                if version == DIGESTS_FROM and shape_of(conn) != SHAPE_BEFORE_DIGESTS:
                    raise _other_version(conn)
                conn.execute(text.encode())
                conn.execute("INSERT INTO protheon.migration (version, name) VALUES (%s, %s)", (version, name))
                if version >= DIGESTS_FROM:
                    _note_digests(conn, version)
            ran.append(f"{version:04d}_{name}")
        if rows(conn, "lacks_rights"):
            raise _lacks_rights(conn, url)
    return ran


def _note_digests(conn: psycopg.Connection, newest: int) -> None:
    for version, _, text in migrations():
        if version <= newest:
            noted = "UPDATE protheon.migration SET digest = %s WHERE version = %s AND digest IS NULL"
            conn.execute(noted, (digest_of(text), version))


def check_same(conn: psycopg.Connection) -> None:
    """Refuse a ledger whose migrations have our numbers and another text. Raises ConfigError."""
    if not applied(conn):
        return
    # through jsonb: the column is not there before its migration
    ran: dict[int, str | None] = dict(conn.execute("SELECT version, to_jsonb(migration) ->> 'digest' FROM protheon.migration").fetchall())
    if any(ran.get(version) not in (None, digest_of(text)) for version, _, text in migrations()):
        raise _other_version(conn)


def _other_version(conn: psycopg.Connection) -> ConfigError:
    info = conn.info
    passfile = Path(info.get_parameters().get("passfile", ""))
    directory = passfile.parent
    if (passfile.name, info.user) == ("passfile", NAME) and (directory / "pgdata").is_dir():
        where, to_do = f"the embedded database in {directory}", f"move {directory} away (all its tables go with it)"
    else:
        where = f"the database {info.dbname} at {info.host}:{info.port}"
        to_do = "name another database, or drop the schema protheon in it (with it goes the record of what is loaded; your tables stay)"
    return ConfigError(
        f"the ledger in {where} was made by another version of Protheon: its migrations have the numbers of this one's and another "
        f"text. Use that version, or {to_do}"
    )


def check_usable(conn: Connection, url: str) -> None:
    """Refuse a ledger of another version than this, and one that this role may not work on: the GRANTs that it needs follow."""
    with _telling_grants(conn, url):
        check_current(conn, for_runs=False)
        if rows(conn, "lacks_rights"):
            raise _lacks_rights(conn, url)


def grants(role: str) -> str:
    """What lets a role use a ledger that another role has made, with what later versions add to it. role: as SQL writes it."""
    rights = "SELECT, INSERT, UPDATE, DELETE"
    return (
        f"GRANT USAGE ON SCHEMA protheon TO {role}; GRANT {rights} ON ALL TABLES IN SCHEMA protheon TO {role}; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA protheon GRANT {rights} ON TABLES TO {role};"
    )


@contextmanager
def _telling_grants(conn: Connection, url: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as exc:
        raise _lacks_rights(conn, url) from exc


def _lacks_rights(conn: Connection, url: str) -> ConfigError:
    role = sql.Identifier(conn.info.user).as_string(conn)
    return ConfigError(
        f"the database role may not make, or use, Protheon's ledger, the schema protheon ({place_of(url)}): "
        f"have a role that may CREATE in this database run `protheon db migrate --database ITS_URL`, and then: {grants(role)}"
    )


def check_not_newer(version: int) -> None:
    """Refuse a ledger that a newer Protheon has changed."""
    newest = migrations()[-1][0]
    if version > newest:
        raise MigrationPending(
            f"the ledger is at migration {version}, this Protheon knows {newest}: upgrade Protheon here (pip install -U protheon-dask)"
        )


def check_current(conn: psycopg.Connection, *, for_runs: bool = True) -> None:
    """Refuse to work on a ledger that is older or newer than this version.

    for_runs: a person asks for runs: where Protheon never was there are none, and a ledger made by hand would not change that.
    """
    version = applied(conn)
    if for_runs and not version:
        raise NotFound("there are no runs in this database yet: start one with `protheon load PATH`, or name the database of your load")
    check_not_newer(version)
    check_same(conn)
    newest = migrations()[-1][0]
    if version < newest:
        raise MigrationPending(f"the ledger is at migration {version}, this Protheon needs {newest}: run `protheon db migrate`")
