"""Connections to PostgreSQL that also work through PgBouncer in transaction mode, and errors in our own words."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from protheon_dask.errors import ConfigError, InvariantError, LedgerUnavailable, ProtheonError, SchemaViolation
from protheon_dask.policy import blame

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

    Raises:    LedgerUnavailable: the server does not answer or is not ready. ConfigError: it refused us.
    Guarantee: nothing depends on session state, so a transaction-mode pooler may stand between.
    """
    given = parsed(url)
    with translated(url):
        parameters: dict[str, Any] = {**{k: v for k, v in LIVENESS.items() if k not in given}, "application_name": application}
        return psycopg.connect(url, autocommit=autocommit, prepare_threshold=None, **parameters)


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


def public_url(url: str) -> str:
    """The URL without its password, for people and logs. Raises ConfigError like parsed()."""
    parts = {k: v for k, v in parsed(url).items() if k not in ("password", "passfile", "sslpassword")}
    return make_conninfo("", **parts)


def translate(exc: psycopg.Error, url: str | None = None) -> ProtheonError:
    """Say in our words what PostgreSQL said, by class and SQLSTATE; the text only informs."""
    text = (exc.diag.message_primary or str(exc)).strip().replace("\n", "; ")
    where = f" ({public_url(url)})" if url is not None else ""
    state = exc.sqlstate
    if state is None and isinstance(exc, psycopg.OperationalError):
        return LedgerUnavailable(f"PostgreSQL does not answer{where}: {text}")
    whose = blame(state)
    if whose.line:
        return SchemaViolation(f"{text} (SQLSTATE {state})", state)
    if state is not None and (whose.operator or state in ("28000", "28P01", "3D000")):
        return ConfigError(f"PostgreSQL refuses{where}: {text} (SQLSTATE {state})")
    if whose.nobody and state is not None:
        return LedgerUnavailable(f"PostgreSQL cannot serve us now{where}: {text} (SQLSTATE {state})")
    return InvariantError(f"PostgreSQL: {text} (SQLSTATE {state})")


@contextmanager
def translated(url: str | None = None) -> Iterator[None]:
    """Turn psycopg's errors into ours where they enter."""
    try:
        yield
    except pg.Error as exc:
        if isinstance(exc, psycopg.OperationalError) and exc.sqlstate is None and url is not None and _refused_at_connect(exc):
            raise ConfigError(f"PostgreSQL refuses ({public_url(url)}): {str(exc).strip()}") from exc
        raise translate(exc, url) from exc


def _refused_at_connect(exc: psycopg.OperationalError) -> bool:
    """libpq gives no SQLSTATE for errors at connect; the server's own FATAL has one in its result when it got that far."""
    if exc.pgconn is None:  # psycopg resolves names itself; a name server that does not answer has another number
        return str(exc).startswith("failed to resolve host") and f"[Errno {int(socket.EAI_NONAME)}]" in str(exc)
    result = exc.pgconn.error_message
    return any(
        word in result
        for word in (
            b"password authentication failed",
            b"does not exist",
            b"no password supplied",
            b"no pg_hba.conf entry",
            b"could not translate host name",
        )
    )
