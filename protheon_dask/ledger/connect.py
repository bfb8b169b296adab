"""Connections to PostgreSQL that also work through PgBouncer in transaction mode, and errors in our own words."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

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


def connect(url: str, *, application: str, autocommit: bool = True) -> Connection:
    """Open a connection that sets nothing in its session.

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
        conn = psycopg.connect(url, autocommit=autocommit, prepare_threshold=None, **parameters)
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
        raise ConfigError("the database URL cannot be read: percent-encode special characters in the password")
    return parts


def place_of(url: str) -> postgres.Place:
    """Host, port, database and role that a URL means, libpq's own defaults and variables included. Raises ConfigError like parsed()."""
    parts = {option.keyword.decode(): (option.val or b"").decode() for option in psycopg.pq.Conninfo.get_defaults()}
    parts |= {name: str(value) for name, value in parsed(url).items() if value is not None}
    role = parts["user"]
    return postgres.Place(parts["host"] or parts["hostaddr"] or "localhost", parts["port"], parts["dbname"] or role, role)


@contextmanager
def translated(url: str | None = None) -> Iterator[None]:
    """Turn psycopg's errors into ours where they enter. url: whose words these are, for the message."""
    try:
        yield
    except psycopg.Error as exc:
        raise postgres.translate(exc, place_of(url) if url is not None else None) from exc
