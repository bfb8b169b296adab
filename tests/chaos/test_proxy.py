"""The campaign's network: what it holds back arrives later, what it cuts is cut, the COMMIT that it loses is a data transaction's."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from protheon_dask.ledger.verbs import advisory_key
from tests.chaos.proxy import Direction, Link, Loss, Proxy, task_of
from tests.fixtures.cluster import ask, wait_until


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(100):
                client.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize("direction", list(Direction))
def test_what_is_held_back_arrives_when_it_is_let_through(echo: tuple[str, int], direction: Direction) -> None:
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        proxy.hold_back(direction)
        client.sendall(b"two")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        proxy.let_through(direction)
        client.settimeout(5)
        assert client.recv(10) == b"two"


def test_what_is_cut_ends_for_both_and_who_is_refused_is_hung_up_on(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            assert proxy.cut() == 1
            assert client.recv(10) == b""
        assert proxy.links == []
        proxy.refuse(True)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            assert client.recv(10) == b""


@pytest.mark.parametrize("loss", list(Loss))
def test_the_lost_commit_is_that_of_a_data_transaction_and_its_task_is_known(database: str, loss: Loss) -> None:
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    struck: list[tuple[Loss, int | None]] = []

    def note(loss: Loss, link: Link) -> None:
        struck.append((loss, link.task_id))

    with Proxy(("127.0.0.1", port)) as proxy:
        url = database.replace(f":{port}/", f":{proxy.port}/") + "?sslmode=disable"
        proxy.arm(loss, note, late_s=0.5)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("BEGIN")
            conn.execute("CREATE TABLE another (n int)")
            conn.execute("COMMIT")
            assert struck == []
            conn.execute("BEGIN")
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_key(77),))
            conn.execute("INSERT INTO another VALUES (1)")
            with pytest.raises(psycopg.OperationalError):
                conn.execute("COMMIT")
        assert struck == [(loss, 77)]
        wait_until(lambda: ask(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77") == [(0,)])
        n_rows = 0 if loss is Loss.COMMIT else 1
        assert ask(database, "SELECT count(*) FROM another") == [(n_rows,)]


def test_the_task_is_read_in_digits_and_in_binary() -> None:
    key = advisory_key(123_456)
    asked = b"SELECT pg_advisory_xact_lock($1)\x00"
    assert task_of(asked + str(key).encode() + b"\x00") == 123_456
    assert task_of(asked + b"\x00\x00\x00\x08" + key.to_bytes(8, "big")) == 123_456
    assert task_of(asked) is None
