"""Connections to PostgreSQL that also work through PgBouncer in transaction mode, and errors in our own words."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from protheon_dask import postgres
from protheon_dask.errors import ConfigError, ProtheonError

Connection = psycopg.Connection[tuple[Any, ...]]

# Seconds; a dead peer is noticed within 20 s (PITFALLS 3 and 9). libpq parameters, not session settings: no `options`.
LIVENESS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}


def connect(url: str, *, application: str, autocommit: bool = True, kind: type[Connection] = psycopg.Connection) -> Connection:
    """Open a connection of this kind that sets nothing in its session.

    Raises:    LedgerUnavailable: the server does not answer or is not ready. ConfigError: it refused us, is older than
               LEAST_VERSION, or the database is not in UTF-8.
    Guarantee: nothing depends on session state, so a transaction-mode pooler may stand between. Text travels in UTF-8, whatever
               role and database have as client_encoding: a part of the start of a connection, which poolers keep for each client.
    """
    given = parsed(url)
    parameters: dict[str, Any] = {
        **{k: v for k, v in LIVENESS.items() if k not in given},
        "application_name": application,
        "client_encoding": "UTF8",
    }
    try:
        conn = kind.connect(url, autocommit=autocommit, prepare_threshold=None, **parameters)
    except psycopg.Error as exc:
        raise _not_connected(exc, url) from exc
    try:
        _check_server(conn, url)
    except ConfigError:
        conn.close()
        raise
    return conn


def _not_connected(exc: psycopg.Error, url: str) -> ProtheonError:
    if exc.sqlstate is not None or not isinstance(exc, psycopg.OperationalError):
        return postgres.translate(exc, place_of(url))
    # psycopg resolves names itself; a name server that does not answer has another number
    is_name_unknown = str(exc).startswith("failed to resolve host") and f"[Errno {int(socket.EAI_NONAME)}]" in str(exc)
    return postgres.refused_at_connect(exc, place_of(url), is_name_unknown=is_name_unknown)


def _check_server(conn: Connection, url: str) -> None:
    """Refuse what Protheon cannot work with, as the server said it in its greeting: no round trip."""
    if (number := conn.info.server_version) < postgres.LEAST_VERSION * 10_000:
        told = f"PostgreSQL {number // 10_000} is too old ({place_of(url)}): Protheon needs {postgres.LEAST_VERSION} or newer"
        raise ConfigError(f"{told}; upgrade it, or load into another server")
    encoding = conn.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise ConfigError(
            f"the encoding of the database is {encoding} ({place_of(url)}), which cannot hold every text: "
            "make another one, CREATE DATABASE .. ENCODING 'UTF8' TEMPLATE template0"
        )


@contextmanager
def opened(url: str, *, application: str) -> Iterator[Connection]:
    """A connection for the time of a block; psycopg's errors in the block become ours."""
    with translated(url), closing(connect(url, application=application)) as conn:
        yield conn


def parsed(url: str) -> dict[str, Any]:
    """The parts of a URL, or of ``name=value`` pairs, as libpq reads them.

    Raises: ConfigError, without a word of the URL: a ``% @ / ? :`` of a password that is not encoded breaks it, and libpq's own
            text, or what it then takes for a host, a port or a database, shows a piece of the password.
    """
    try:
        parts = dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        parts = {}
        is_readable = False
    else:
        ports = str(parts.get("port") or "").replace(",", "")
        places = str(parts.get("host") or "")[1:] + str(parts.get("dbname") or "")  # a socket's name may begin with @
        is_readable = (not ports or ports.isdecimal()) and not ("://" in url and "%40" not in url and "@" in places)
    if not is_readable:
        hint = "; percent-encode special characters in its password" if _may_hold_password(url) else ""
        raise ConfigError(f"the database URL cannot be read: give postgresql://user@host:5432/database{hint}")
    return parts


def _may_hold_password(url: str) -> bool:
    """Whether a part of a URL that cannot be read may be meant as a password: what stands where a port does may be one, too."""
    _, separator, rest = url.partition("://")
    user_info, at, _ = rest.rpartition("@")
    return "pass" in url.lower() or bool(separator and ":" in (user_info if at else rest))


def place_of(url: str) -> postgres.Place:
    """Host, port, database and role that a URL means, libpq's own defaults and variables included. Raises ConfigError like parsed()."""
    parts = {option.keyword.decode(): (option.val or b"").decode() for option in psycopg.pq.Conninfo.get_defaults()}
    parts |= {name: str(value) for name, value in parsed(url).items() if value is not None}
    role = parts["user"]
    return postgres.Place(parts["host"] or parts["hostaddr"] or "localhost", parts["port"], parts["dbname"] or role, role)


OF_THIS_HOST: Final = frozenset({b"service", b"servicefile", b"passfile"})
"""Parameters that name a file, or a part of one: what a service says is in the others."""


def spelled_out(url: str) -> str:
    """The same database for who has another environment: a URL without a host becomes ``name=value`` pairs, PGHOST, PGPASSWORD .. in them.

    Raises ConfigError like parsed().
    """
    given = {name: value for name, value in parsed(url).items() if value is not None}
    if given.get("host") or given.get("hostaddr") or given.get("service"):
        return url
    from_variables = {
        option.keyword.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.val is not None and option.val != option.compiled and option.keyword not in OF_THIS_HOST
    }
    return make_conninfo("", **{**from_variables, **given})


@contextmanager
def translated(url: str | None = None) -> Iterator[None]:
    """Turn psycopg's errors into ours where they enter. url: whose words these are, for the message."""
    try:
        yield
    except psycopg.Error as exc:
        raise postgres.translate(exc, place_of(url) if url is not None else None) from exc


def check_writable(conn: Connection, url: str) -> None:
    """Raise ConfigError if this server, or this role on it, only reads, as the greeting said it: no round trip."""
    if conn.info.parameter_status("in_hot_standby") == "on":
        raise ConfigError(f"this PostgreSQL server is a standby, which only reads ({place_of(url)}): give the address of the primary")
    if conn.info.parameter_status("default_transaction_read_only") == "on":
        raise ConfigError(
            f"default_transaction_read_only is on for the role, the database or the server ({place_of(url)}): "
            "ALTER ROLE .. SET default_transaction_read_only = off, or use another role"
        )


def check_direct(conn: Connection, url: str) -> None:
    """Raise ConfigError if a pooler gives each transaction of this connection a session of somebody's: no lock of a session is ours there.

    Guarantee: a pooler shows by a process id that is not the backend's. It gives whole sessions only if two other connections
               meet neither this one's backend nor move it to another.
    """
    if (own := _backend_pid(conn)) == conn.info.backend_pid:
        return
    with ExitStack() as stack:
        for _ in range(2):
            other = stack.enter_context(opened(url, application="protheon-probe"))
            stack.enter_context(other.transaction())
            if _backend_pid(other) == own or _backend_pid(conn) != own:
                raise ConfigError(
                    f"a pooler in transaction mode stands before PostgreSQL ({place_of(url)}), where nobody can hold the lead of a ledger: "
                    "give the server's own address as direct_url (PROTHEON_DIRECT_URL) beside database_url; "
                    "workers go on through the pooler"
                )


def _backend_pid(conn: Connection) -> int:
    row = conn.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None, "a SELECT without FROM has one row"
    return int(row[0])
