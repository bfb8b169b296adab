"""What PostgreSQL's errors mean, in the words of Protheon: by class and SQLSTATE. No driver is imported: any room may ask.

Only at connect there is no SQLSTATE, since libpq gives none: what the server, a pooler or libpq says there in English is told by
CONNECT_WORDS (DECISIONS 10), and what is not recognised counts as an outage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from protheon_dask.errors import ConfigError, InvariantError, LedgerUnavailable, ProtheonError, SchemaViolation
from protheon_dask.policy import blame

MAX_MESSAGE_CHARS: Final = 400
"""Of the server's message in a reason: for an enum, or from a trigger, it may repeat a whole line."""

MAX_DETAIL_CHARS: Final = 300
"""Of the server's DETAIL in a reason: a key is short, a whole failing row is not for a reason."""

KEY_DETAILS: Final = ("23505", "23503", "23P01")
"""SQLSTATEs whose DETAIL names the key and not the whole row."""

LEAST_VERSION: Final = 14
"""The oldest major version of PostgreSQL that Protheon works with (README, Install)."""

NO_TIMEOUTS: Final = """
SELECT set_config(name, '0', true)
  FROM unnest(ARRAY['statement_timeout', 'transaction_timeout', 'lock_timeout']) AS name
 WHERE current_setting(name, true) IS NOT NULL
"""
"""First in a long transaction: what a role or a database has set against careless queries ends no COPY, merge or index.
For this transaction only, so a pooler may stand between. transaction_timeout came with PostgreSQL 17."""

TLS: Final = "TLS"
"""Stands where an SQLSTATE would: client and server do not agree on TLS."""

NO_PASSWORD: Final = "password"
"""Likewise: the server asks for a password, and libpq found none."""

CONNECT_WORDS: Final[tuple[tuple[str, str], ...]] = (
    ("failed to resolve host", ""),  # told by its number, see refused_at_connect
    ("could not translate host name", "08001"),
    ("server does not support SSL", TLS),
    ("certificate", TLS),
    ("unknown ca", TLS),
    ("unsupported protocol", TLS),  # "SSL error" alone is no word of these: a server that goes while it greets makes one too
    ("no pg_hba.conf entry", "28000"),
    ("pg_hba.conf rejects", "28000"),
    ("is not permitted to log in", "28000"),
    ("authentication failed", "28P01"),
    ("no password supplied", NO_PASSWORD),
    ("no such user", "28P01"),  # PgBouncer
    ("no such database", "3D000"),  # PgBouncer
    ("permission denied for database", "42501"),
    ("is not currently accepting connections", "3D000"),
    ("too many", "53300"),
    ("connection slots", "53300"),
    ("no more connections allowed", "53300"),  # PgBouncer
    ("starting up", "57P03"),
    ("shutting down", "57P03"),
    ("recovery mode", "57P03"),
    ("not yet accepting connections", "57P03"),
    ("not accepting connections", "57P03"),
    ("does not exist", "3D000"),  # a database, or a role: after a certificate's file
)
"""What is said at connect -> its SQLSTATE; the first that is found counts. Words of English servers, PgBouncer and libpq."""

REFUSES = "PostgreSQL refuses"
WAITS = "PostgreSQL cannot serve us now"

ADVICE: Final[Mapping[str, tuple[str, str]]] = {
    "08001": (REFUSES, "check the host's name"),
    TLS: ("PostgreSQL and this machine do not agree on TLS", "check sslmode and sslrootcert of the URL, and ssl of the server"),
    "28000": (
        "PostgreSQL does not let this role in from here",
        "have pg_hba.conf allow this host, database and role, with the TLS that it asks for",
    ),
    "28P01": ("PostgreSQL does not know this role by this password", "check role and password of the URL"),
    NO_PASSWORD: ("PostgreSQL asks for this role's password", "put it into ~/.pgpass or PGPASSWORD, or into the URL"),
    "3D000": ("PostgreSQL has no such database or role", "create it, or correct the URL"),
    "42501": ("the database role lacks a right", "grant it, or use another role"),
    "25006": (
        "this PostgreSQL only reads: it is a standby, or default_transaction_read_only is on for the role or the database",
        "give the address of the primary, or ALTER ROLE .. SET default_transaction_read_only = off",
    ),
    "53100": ("the disk of the PostgreSQL server is full", "make room there: loading then goes on by itself"),
    "53200": ("the PostgreSQL server is out of memory", "it is tried again"),
    "53300": (
        "PostgreSQL has no connection left",
        "raise max_connections, or the CONNECTION LIMIT of role or database, or use fewer workers; it is tried again",
    ),
    "53400": ("a limit that is set in PostgreSQL is too low", "raise it (temp_file_limit, or as it says)"),
    "57P01": ("the PostgreSQL server, or an administrator, ended the connection", "it is tried again"),
    "57P02": ("a crash of another backend ended the connection to PostgreSQL", "it is tried again"),
    "57P03": ("the PostgreSQL server is starting, recovering or stopping", "it is tried again"),
    "57014": ("PostgreSQL cancelled a statement: somebody did, or statement_timeout of the role or database", "it is tried again"),
}
"""SQLSTATE -> what happened, and what to do."""

IS_OUTAGE: Final = ("53", "57", "58", "08")
"""Classes that mean a server in need, rather than two transactions that met."""


class Diagnostic(Protocol):
    """What the server said, in parts."""

    @property
    def message_primary(self) -> str | None: ...
    @property
    def message_detail(self) -> str | None: ...
    @property
    def schema_name(self) -> str | None: ...
    @property
    def table_name(self) -> str | None: ...


class ServerError(Protocol):
    """An error as a driver of PEP 249 raises it; psycopg.Error is one."""

    @property
    def sqlstate(self) -> str | None: ...
    @property
    def diag(self) -> Diagnostic: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A database as a role sees it, for messages; never a password."""

    host: str  # several, with commas between them, are tried in turn, as libpq does
    port: str  # one for all hosts, or as many as these; empty: libpq's own
    database: str
    role: str

    def __str__(self) -> str:
        hosts, ports = self.host.split(","), self.port.split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        places = [(f"[{host}]" if ":" in host else host) + f":{port}" * bool(port) for host, port in zip(hosts, ports, strict=False)]
        return f"database {self.database!r} at {' or '.join(places)}, role {self.role!r}"


def translate(exc: ServerError, place: Place | None = None) -> ProtheonError:
    """Give the error to raise instead: ``raise translate(exc) from exc``.

    place:     whose words these are; None where the caller has said it.
    Guarantee: SchemaViolation where a row is at fault, ConfigError where the operator must act, LedgerUnavailable where a later
               try may go well (a lost connection too), else InvariantError. The text names the SQLSTATE where there is one.
    """
    state = exc.sqlstate
    if state is None and not _is_operational(exc):
        return InvariantError(f"the driver refused a call of Protheon's own: {type(exc).__name__}: {exc}")
    text = reason_of(exc)
    whose = blame(state)
    if whose.line:
        return SchemaViolation(text, state, table_of(exc))
    where = f" ({place})" if place is not None else ""
    if state is None:
        return LedgerUnavailable(f"PostgreSQL does not answer{where}: {text}")
    if whose.nobody or whose.operator:
        head, advice = ADVICE.get(state, (WAITS if whose.nobody else REFUSES, ""))
        told = f"{head}{where}: {text}" + (f"; {advice}" if advice else "")
        return LedgerUnavailable(told) if whose.nobody else ConfigError(told)
    return InvariantError(f"PostgreSQL{where}: {text}")


def refused_at_connect(exc: ServerError, place: Place, *, is_name_unknown: bool = False) -> ProtheonError:
    """What an error without an SQLSTATE means where a connection was being made.

    is_name_unknown: the driver says that no such host exists, as opposed to a name server that does not answer.
    """
    text = str(exc)
    state = "08001" if is_name_unknown else next((state for words, state in CONNECT_WORDS if words in text), "")
    if not state:
        return LedgerUnavailable(f"PostgreSQL does not answer ({place}): {_one_line(text)}")
    head, advice = ADVICE[state]
    told = f"{head} ({place}): {_last_words(text)}; {advice}"
    return LedgerUnavailable(told) if state[:2] in ("53", "57") else ConfigError(told)


def is_line_fault(exc: ServerError) -> bool:
    """Tell whether a line's rows, and nothing else, are to blame."""
    return exc.sqlstate is not None and blame(exc.sqlstate).line


def is_passing(exc: ServerError) -> bool:
    """Tell whether a later try may go well: a lost connection, a deadlock, a full disk, a shutdown."""
    return _is_operational(exc) if exc.sqlstate is None else blame(exc.sqlstate).nobody


def is_outage(sqlstate: str | None) -> bool:
    """Tell whether the server itself is in need (None: the connection is lost), rather than two transactions that met."""
    return sqlstate is None or sqlstate.startswith(IS_OUTAGE)


def reason_of(exc: ServerError) -> str:
    """Say on one line what the server said: message, the key where one is named, SQLSTATE."""
    said = exc.diag.message_primary or str(exc).strip() or type(exc).__name__
    detail = exc.diag.message_detail
    if exc.sqlstate in KEY_DETAILS and detail:
        said = f"{said}: {detail[:MAX_DETAIL_CHARS]}"
    elif len(said) > MAX_MESSAGE_CHARS:
        said = said[:MAX_MESSAGE_CHARS] + "..."
    return _one_line(said) + (f" (SQLSTATE {exc.sqlstate})" if exc.sqlstate else "")


def table_of(exc: ServerError) -> str | None:
    """Name ``schema.table`` where the server says which table it was."""
    schema, table = exc.diag.schema_name, exc.diag.table_name
    return f"{schema}.{table}" if schema and table else None


def _is_operational(exc: ServerError) -> bool:
    """PEP 249 names the class of what is not the programmer's fault."""
    return any(cls.__name__ == "OperationalError" for cls in type(exc).__mro__)


def _one_line(text: str) -> str:
    return " ".join(_QUESTION.sub(". ", text).split())


_QUESTION: Final = re.compile(r"(?<=\w)\n\t(?=[A-Z])")
"""libpq's hint (Is the server running ..) on a line of its own, after words without a full stop."""


def _last_words(text: str) -> str:
    """The server's own words, without how they came here."""
    return _one_line(text.partition("\n")[0].rpartition("FATAL: ")[2])
