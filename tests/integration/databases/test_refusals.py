"""A database that cannot be used is told in plain words: what, which host, database and role, what to do; and never the password."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from protheon_dask.errors import ConfigError, LedgerUnavailable, ProtheonError
from protheon_dask.ledger.connect import connect
from protheon_dask.ledger.migrate import migrate
from protheon_dask.ledger.server_process import free_port
from protheon_dask.run.desk import ChunkDesk
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.own_postgres import PASSWORD, OwnServer


@pytest.fixture(scope="module")
def server(own_server: OwnServer) -> OwnServer:
    for role in ("loader", "stranger"):
        own_server.make_role(role)
    own_server.make_role("crowded", options="CONNECTION LIMIT 1")
    own_server.make_role("reader")
    own_server.make_role("sleeper")
    own_server.execute(
        "ALTER ROLE sleeper NOLOGIN",
        "CREATE DATABASE tls_only",
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        "CREATE DATABASE old_text ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
        "CREATE DATABASE no_text ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
        "ALTER ROLE reader SET default_transaction_read_only = on",
    )
    return own_server


def refused(url: str, whose: type[ProtheonError]) -> str:
    """What a person reads."""
    with pytest.raises(whose) as caught:
        connect(url, application="test").close()
    assert type(caught.value) is whose
    told = str(caught.value)
    assert not any(part in told for part in ("s3cr3t", "wort", "wr0ng"))
    return told


@pytest.mark.parametrize(
    ("database", "role", "password", "query", "words"),
    [
        ("postgres", "loader", "wr0ng", "", "does not know this role by this password"),
        ("postgres", "loader", None, "", "asks for this role's password"),
        ("postgres", "nobody_knows", PASSWORD, "", "does not know this role by this password"),
        ("not_there", "loader", PASSWORD, "", "has no such database or role"),
        ("postgres", "stranger", PASSWORD, "", "does not let this role in from here"),
        ("postgres", "sleeper", PASSWORD, "", "does not let this role in from here"),
        ("closed", "loader", PASSWORD, "", "the database role lacks a right"),
        ("tls_only", "loader", PASSWORD, "?sslmode=disable", "does not let this role in from here"),
        ("postgres", "loader", PASSWORD, "?sslmode=verify-full&sslrootcert=/nowhere.crt", "do not agree on TLS"),
        ("postgres", "loader", PASSWORD, "?sslmode=verify-full&sslrootcert=system", "do not agree on TLS"),
        ("old_text", "loader", PASSWORD, "", "the encoding of the database is LATIN1"),
        ("no_text", "loader", PASSWORD, "", "the encoding of the database is SQL_ASCII"),
    ],
)
def test_what_the_operator_must_mend_is_told_with_its_place(
    server: OwnServer, database: str, role: str, password: str | None, query: str, words: str
) -> None:
    told = refused(server.url(database, role, password) + query, ConfigError)
    assert words in told
    assert f"database '{database}' at 127.0.0.1:{server.port}, role '{role}'" in told
    assert ";" in told or ":" in told.rpartition(")")[2]  # and what to do


def test_a_server_without_tls_is_told_where_tls_is_asked_for(postgres_url: str) -> None:
    assert "do not agree on TLS" in refused(postgres_url + "?sslmode=require", ConfigError)


def test_tls_is_used_where_it_is_asked_for(server: OwnServer) -> None:
    with closing(connect(server.url("tls_only", "loader", PASSWORD), application="test")) as conn:
        assert conn.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)


def test_a_port_where_nothing_listens_is_waited_for(server: OwnServer) -> None:
    port = free_port()
    told = refused(f"postgresql://loader:s3cr3t@127.0.0.1:{port}/x", LedgerUnavailable)
    assert f"PostgreSQL does not answer (database 'x' at 127.0.0.1:{port}, role 'loader')" in told
    assert "refused" in told


def test_of_several_hosts_the_one_that_refuses_is_told(server: OwnServer) -> None:
    url = f"postgresql://loader:wr0ng@127.0.0.1:{free_port()},127.0.0.1:{server.port}/postgres"
    assert "does not know this role by this password" in refused(url, ConfigError)


def test_a_host_that_does_not_exist_is_told() -> None:
    with pytest.raises((ConfigError, LedgerUnavailable), match=r"no-such-host\.invalid"):
        connect("postgresql://loader:s3cr3t@no-such-host.invalid/x", application="test")  # a machine without a network cannot know


def test_a_role_without_a_connection_left_is_waited_for(server: OwnServer) -> None:
    url = server.url("postgres", "crowded", PASSWORD)
    with closing(connect(url, application="test")):
        told = refused(url, LedgerUnavailable)
    assert "PostgreSQL has no connection left" in told
    assert "CONNECTION LIMIT" in told


def test_a_role_that_only_reads_cannot_have_a_ledger(server: OwnServer) -> None:
    with pytest.raises(ConfigError, match="default_transaction_read_only is on"):
        migrate(server.url("postgres", "reader", PASSWORD))


def test_a_standby_is_told_and_one_that_takes_no_queries_is_waited_for(server: OwnServer) -> None:
    standby = server.standby()
    try:
        with pytest.raises(ConfigError, match=r"is a standby, which only reads .* give the address of the primary"):
            migrate(standby.url("postgres", "loader", PASSWORD))
        standby.stop()
        standby.settings = {**standby.settings, "hot_standby": "off"}
        standby.start()
        assert "starting, recovering or stopping" in refused(standby.url("postgres", "loader", PASSWORD), LedgerUnavailable)
    finally:
        standby.stop()


def test_a_worker_waits_while_postgresql_refuses_the_broker(server: OwnServer, tmp_path: Path) -> None:
    desk = ChunkDesk(server.url("postgres", "loader", "wr0ng"), ChunkStore(tmp_path, 1 << 20), lambda _: None)
    with pytest.raises(LedgerUnavailable, match="at the broker: PostgreSQL does not know this role"):
        desk.locate(1, 1)


@contextmanager
def claiming_version(server_port: int, version: bytes) -> Iterator[int]:
    """The server behind a relay that says another major version in its greeting: no older one can be had here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def relay() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", server_port)) as behind:
                client_to_server = threading.Thread(target=_pass_on, args=(client, behind, lambda data: data))
                client_to_server.start()
                _pass_on(behind, client, lambda data: _renamed(data, version))
                client_to_server.join()

        thread = threading.Thread(target=relay)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _renamed(data: bytes, version: bytes) -> bytes:
    at = data.find(b"server_version\0")
    return data if at < 0 else data[: at + 15] + version + data[at + 15 + len(version) :]


def _pass_on(source: socket.socket, sink: socket.socket, change: object) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(change(data))  # type: ignore[operator]  # bytes to bytes
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_an_old_server_is_told_with_the_least_version(postgres_url: str) -> None:
    port = int(postgres_url.rpartition(":")[2].partition("/")[0])
    with claiming_version(port, b"13") as relay_port:
        told = refused(f"postgresql://postgres@127.0.0.1:{relay_port}/postgres?sslmode=disable", ConfigError)
    assert "PostgreSQL 13 is too old" in told
    assert "Protheon needs 14 or newer" in told


def test_the_greeting_of_the_relay_is_otherwise_the_servers(postgres_url: str) -> None:
    port = int(postgres_url.rpartition(":")[2].partition("/")[0])
    with (
        claiming_version(port, b"14") as relay_port,
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{relay_port}/postgres?sslmode=disable") as conn,
    ):
        assert conn.info.server_version // 10_000 == 14
        assert conn.execute("SELECT 1").fetchone() == (1,)
