"""The broker's HTTP face: /metrics, /workers, /healthz. Async; its port is plain functions, which answer at once."""

from __future__ import annotations

import asyncio
import http
import ipaddress
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import msgspec
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine, format_timestamp
from tornado.iostream import IOStream

from protheon_dask.broker.looped import LoopedServer
from protheon_dask.errors import ConfigError, InvariantError

JSON: Final = "application/json; charset=utf-8"
OURS: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d*)?", re.ASCII | re.IGNORECASE)
"""The header Host of who asks a listener on loopback. Any other is a name that somebody let point to this machine: a page of the web
under that name would read our answers as its own (DNS rebinding)."""
PATHS: Final = ("/metrics", "/workers", "/healthz")
METHODS: Final = ("GET", "HEAD")
MAX_CONNECTIONS = 64
"""Open at a time. One more closes the oldest: a request that is served lasts milliseconds, so the oldest is one that is none."""
BACKLOG = 128
"""Connections that the kernel keeps for us until we take them."""
DEADLINE_S = 10.0
"""What a connection lives at most, from its first packet to the last byte of its answer: one request, which Prometheus gives 10 s."""
MAX_REQUEST_BYTES = 16 << 10
"""Of a request's head, and as much of a body that nobody reads."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path answers. A code of 503 tells the client to come back in a second."""

    code: int
    content_type: str
    body: bytes


def json_answer(code: int, value: Any) -> Answer:
    """value as JSON for people, too: indented, with a line end."""
    return Answer(code, JSON, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


class HttpPort(Protocol):
    """Answers for each path. Called in the server's loop: it waits for nothing, and computes for milliseconds at most."""

    def metrics(self, accept: str) -> Answer:
        """accept: the request's header Accept, empty where it has none."""
        ...

    def workers(self) -> Answer: ...
    def health(self) -> Answer: ...


class HttpServer:
    """Serves one port from the running event loop. Single use.

    Guarantee: one request a connection, and max_connections of them at a time, each for deadline_s: whoever sends nothing, sends
               garbage, or reads nothing costs a socket for so long, and nobody else waits for him.
    """

    def __init__(self, port: HttpPort, *, max_connections: int, deadline_s: float) -> None:
        self._answers: dict[str, Callable[[str], Answer]] = {
            "/metrics": port.metrics,
            "/workers": lambda _: port.workers(),
            "/healthz": lambda _: port.health(),
        }
        limits = {"max_header_size": MAX_REQUEST_BYTES, "max_body_size": MAX_REQUEST_BYTES, "max_buffer_size": 4 * MAX_REQUEST_BYTES}
        self._server = BoundedServer(self._reply, no_keep_alive=True, idle_connection_timeout=deadline_s, **limits)
        self._server.max_connections, self._server.deadline_s = max_connections, deadline_s
        self._is_loopback = True

    async def serve(self, host: str, port: int) -> int:
        """Listen on host and port (0: any free one) and return the port.

        Raises: ConfigError: the address is taken, or not this machine's; nothing listens then.
        """
        listening = listening_on(host, port, "HTTP", "http_port")
        self._is_loopback = ipaddress.ip_address(listening.getsockname()[0]).is_loopback
        self._server.add_sockets([listening])
        return int(listening.getsockname()[1])

    async def stop(self) -> None:
        """Listen no more, and close what is open."""
        self._server.stop()
        await self._server.close_all_connections()

    def _reply(self, request: HTTPServerRequest) -> None:
        answer = self._answer(request)
        headers = HTTPHeaders(
            {
                "Content-Type": answer.content_type,
                "Content-Length": str(len(answer.body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Vary": "Accept",
                "Date": format_timestamp(time.time()),
            }
        )
        if answer.code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(METHODS)
        if answer.code == http.HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = "1"
        connection = request.connection
        if connection is None:
            raise InvariantError("an HTTP request without its connection")
        start = ResponseStartLine("", answer.code, http.HTTPStatus(answer.code).phrase)
        connection.write_headers(start, headers, None if request.method == "HEAD" else answer.body)
        connection.finish()

    def _answer(self, request: HTTPServerRequest) -> Answer:
        if self._is_loopback and OURS.fullmatch(request.headers.get("Host", "localhost")) is None:  # HTTP/1.0 may name none
            told = "this answers as localhost, 127.0.0.1 or [::1] alone, and your header Host names another: ask for one of them"
            return json_answer(421, {"error": f"{told}; a proxy has to send one of them, too"})
        found = self._answers.get(request.path)
        if found is None:
            return json_answer(404, {"error": "there is nothing here: see paths", "paths": list(PATHS)})
        if request.method not in METHODS:
            return json_answer(405, {"error": f"this is only to be read: {' or '.join(METHODS)}"})
        return found(request.headers.get("Accept", ""))


def listening_on(host: str, port: int, purpose: str, setting: str) -> socket.socket:
    """A socket that listens there, for an event loop. Raises: ConfigError: the address is taken, or not this machine's."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    except (OSError, OverflowError) as exc:
        raise ConfigError(
            f"cannot listen on {host}:{port} for {purpose}: is another program there? Stop it, or set {setting} to another port"
        ) from exc
    listening.setblocking(False)
    return listening


class BoundedServer(HTTPServer):
    """tornado's, which bounds the time of a request's head alone: not its answer's, and not how many connections there are."""

    max_connections = MAX_CONNECTIONS
    deadline_s = DEADLINE_S

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._deadlines: dict[IOStream, asyncio.TimerHandle] = {}  # of open connections, the oldest first

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._deadlines) >= self.max_connections:
            oldest = next(iter(self._deadlines))
            self._forget(oldest)
            oldest.close()
        self._deadlines[stream] = asyncio.get_running_loop().call_later(self.deadline_s, stream.close)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self._forget(cast(HTTP1ServerConnection, server_conn).stream)

    def _forget(self, stream: IOStream) -> None:
        if (deadline := self._deadlines.pop(stream, None)) is not None:
            deadline.cancel()


class HttpThread(LoopedServer):
    """An HttpServer in a thread with an event loop of its own.

    Of its own, not the one that streams chunks: a picture of 500 workers takes milliseconds to write, in which no chunk would be
    sent, and a loop that is full of chunks would let a probe of /healthz wait.
    """

    def __init__(
        self,
        port: HttpPort,
        host: str,
        http_port: int,
        *,
        max_connections: int = MAX_CONNECTIONS,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        super().__init__("broker-http")
        self._served, self._host, self._asked_port = port, host, http_port
        self._max_connections, self._deadline_s = max_connections, deadline_s
        self._server: HttpServer | None = None

    @property
    def address(self) -> str:
        """Where it listens, as host:port; only after start()."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    async def _serve(self) -> int:
        # made in the loop: tornado asks for the running one
        self._server = HttpServer(self._served, max_connections=self._max_connections, deadline_s=self._deadline_s)
        return await self._server.serve(self._host, self._asked_port)

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.stop()
