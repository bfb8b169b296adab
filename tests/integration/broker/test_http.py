"""The broker's HTTP over real sockets: what is answered, and that nobody who misbehaves is waited for."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from protheon_dask.broker import http as broker_http
from protheon_dask.broker.http import Answer, HttpThread, json_answer
from protheon_dask.errors import ConfigError, InvariantError

LOOPBACK = "127.0.0.1"
BIG = b"x" * (32 << 20)
"""More than the kernel keeps of what nobody reads."""


class Port:
    """Answers that a test can change."""

    def __init__(self) -> None:
        self.health_answer = json_answer(200, {"healthy": True})
        self.accepts: list[str] = []
        self.metrics_body = b"numbers"

    def metrics(self, accept: str) -> Answer:
        self.accepts.append(accept)
        return Answer(200, "text/plain", self.metrics_body)

    def workers(self) -> Answer:
        return json_answer(200, {"é-0": {"status": "idle"}})

    def health(self) -> Answer:
        return self.health_answer


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def server(port: Port) -> Iterator[HttpThread]:
    with HttpThread(port, LOOPBACK, 0) as thread:
        yield thread


@pytest.fixture
def impatient(port: Port) -> Iterator[HttpThread]:
    """Eight connections, a second for each."""
    with HttpThread(port, LOOPBACK, 0, max_connections=8, deadline_s=1.0) as thread:
        yield thread


def number_of(server: HttpThread) -> int:
    return int(server.address.rpartition(":")[2])


def connected(server: HttpThread) -> socket.socket:
    return socket.create_connection((LOOPBACK, number_of(server)), timeout=30)


def asked(
    server: HttpThread, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Code, headers and body of one request's answer."""
    client = http.client.HTTPConnection(LOOPBACK, number_of(server), timeout=30)
    try:
        client.request(method, path, body, headers or {})
        response = client.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        client.close()


def exchanged(server: HttpThread, sent: bytes) -> bytes:
    """All that a server answers to these bytes until it closes."""
    with connected(server) as client:
        client.sendall(sent)
        got = b""
        while data := client.recv(65_536):
            got += data
        return got


def is_closed(client: socket.socket) -> bool:
    """Wait for the other side's end: a polite one, or a reset where it left bytes unread."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_each_path_is_answered_by_its_function(server: HttpThread, port: Port) -> None:
    code, headers, body = asked(server, "/metrics?x=1", headers={"Accept": "text/plain, */*;q=0.1"})
    assert (code, headers["Content-Type"], body) == (200, "text/plain", b"numbers")
    assert port.accepts == ["text/plain, */*;q=0.1"]
    code, headers, body = asked(server, "/workers")
    assert (code, headers["Content-Type"], json.loads(body)) == (200, broker_http.JSON, {"é-0": {"status": "idle"}})
    assert json.loads(asked(server, "/healthz")[2]) == {"healthy": True}


def test_answers_are_not_stored_and_no_other_origin_may_read_them(server: HttpThread) -> None:
    for path in ("/metrics", "/workers", "/healthz", "/"):
        _, headers, _ = asked(server, path, headers={"Origin": "http://elsewhere.example"})
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert headers["Connection"] == "close"


@pytest.mark.parametrize("path", ["/metrics", "/workers", "/healthz", "/"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_page_under_a_name_that_points_here_reads_nothing(server: HttpThread, port: Port, path: str, host: str) -> None:
    code, _, body = asked(server, path, headers={"Host": host})
    assert (code, list(json.loads(body)), port.accepts) == (421, ["error"], [])
    assert "127.0.0.1" in json.loads(body)["error"]


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:80"])
def test_the_names_of_this_machine_are_answered_with_any_port(server: HttpThread, host: str) -> None:
    assert asked(server, "/healthz", headers={"Host": host})[0] == 200


def test_a_request_of_http_1_0_needs_no_host(server: HttpThread) -> None:
    assert exchanged(server, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_a_listener_for_other_machines_answers_under_any_name(port: Port) -> None:
    with HttpThread(port, "0.0.0.0", 0) as server:  # for the length of this test
        assert asked(server, "/healthz", headers={"Host": "metrics.example"})[0] == 200


def test_what_is_missing_is_503_and_says_when_to_ask_again(server: HttpThread, port: Port) -> None:
    port.health_answer = json_answer(503, {"healthy": False, "missing": ["the ledger"]})
    code, headers, body = asked(server, "/healthz")
    assert (code, headers["Retry-After"], json.loads(body)["missing"]) == (503, "1", ["the ledger"])


@pytest.mark.parametrize("path", ["/metrics", "/workers", "/healthz", "/nothing"])
def test_head_is_get_without_its_body(server: HttpThread, path: str) -> None:
    code, headers, body = asked(server, path)
    head_code, head_headers, head_body = asked(server, path, "HEAD")
    same = ("Content-Type", "Content-Length", "Cache-Control")
    assert (head_code, [head_headers[name] for name in same]) == (code, [headers[name] for name in same])
    assert (head_body, len(body) > 0) == (b"", True)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_other_methods_are_refused_with_those_there_are(server: HttpThread, port: Port, method: str) -> None:
    code, headers, body = asked(server, "/metrics", method, body=b"{}")
    assert (code, headers["Allow"]) == (405, "GET, HEAD")
    assert "GET or HEAD" in json.loads(body)["error"]
    assert port.accepts == []


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/%2e%2e/", "//metrics", "/Metrics", "/favicon.ico", "*"])
def test_an_unknown_path_is_404_and_tells_what_there_is(server: HttpThread, path: str) -> None:
    code, _, body = asked(server, path)
    assert (code, json.loads(body)["paths"]) == (404, ["/metrics", "/workers", "/healthz"])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",  # a TLS greeting
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * (64 << 10) + b"\r\n\r\n",
        b"GET /" + b"y" * (64 << 10),
        b"GET /\xff\xfe\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_garbage_ends_its_own_connection_and_no_other(server: HttpThread, garbage: bytes) -> None:
    try:
        answer = exchanged(server, garbage)
    except ConnectionError:
        answer = b""
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert asked(server, "/healthz")[0] == 200


def test_two_requests_in_one_connection_are_one(server: HttpThread, port: Port) -> None:
    one = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert exchanged(server, one * 2).count(b"HTTP/1.1 200 OK") == 1


@contextmanager
def stalled_reader(server: HttpThread) -> Iterator[socket.socket]:
    """A client that asked for more than the kernel keeps, and read five bytes of it."""
    with connected(server) as stalled:
        stalled.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stalled.recv(5) == b"HTTP/"
        yield stalled


def test_who_reads_nothing_holds_up_nobody(server: HttpThread, port: Port) -> None:
    port.metrics_body = BIG
    with stalled_reader(server):
        assert asked(server, "/healthz")[0] == 200
        assert n_open(server) > 0, "the one who reads nothing was dropped before anybody else asked"


def test_who_reads_nothing_is_dropped_in_time(impatient: HttpThread, port: Port) -> None:
    port.metrics_body = BIG
    with stalled_reader(impatient) as stalled:
        wait_closed(impatient, 0)
        read = 5
        with suppress(ConnectionError):  # what the kernel kept, and then its end: the rest was thrown away
            while data := stalled.recv(1 << 20):
                read += len(data)
        assert read < len(BIG)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /metr",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_half_a_request_is_dropped_in_time(impatient: HttpThread, begun: bytes) -> None:
    begun_s = time.monotonic()
    exchanged(impatient, begun)
    assert 0.5 < time.monotonic() - begun_s < 30


def test_a_flood_of_half_open_connections_takes_no_more_sockets_than_it_may_and_the_newest_is_served(server: HttpThread) -> None:
    with ExitStack() as stack:
        flood = [stack.enter_context(connected(server)) for _ in range(400)]
        for client in flood[::2]:
            client.sendall(b"GET /healthz HT")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: asked(server, "/healthz")[0], range(32)))
        assert answers == [200] * 32
        assert 0 < n_open(server) <= broker_http.MAX_CONNECTIONS
        assert is_closed(flood[0])  # the oldest went


def test_a_port_that_is_taken_is_refused_with_the_setting_to_change(server: HttpThread, port: Port) -> None:
    second = HttpThread(port, LOOPBACK, number_of(server))
    with pytest.raises(ConfigError, match=rf"{server.address} for HTTP: is another program there\? .* http_port"):
        second.start()
    second.stop()
    with pytest.raises(InvariantError):
        _ = second.address


def test_after_its_end_nobody_listens_and_what_was_open_is_closed(port: Port) -> None:
    thread = HttpThread(port, LOOPBACK, 0)
    thread.start()
    with connected(thread) as client:
        client.sendall(b"GET /hea")
        thread.stop()
        thread.stop()
        assert is_closed(client)
    with pytest.raises(ConnectionError):
        connected(thread)


def n_open(server: HttpThread) -> int:
    """Connections that the server's side has."""
    number = number_of(server)
    return sum(
        item.laddr.port == number and item.status in (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)
        for item in psutil.Process().net_connections("tcp4")
        if item.laddr
    )


def wait_closed(server: HttpThread, n: int) -> None:
    """Wait until the server has no more than n connections open."""
    end_at = time.monotonic() + 30
    while n_open(server) > n:
        assert time.monotonic() < end_at
        time.sleep(0.05)
