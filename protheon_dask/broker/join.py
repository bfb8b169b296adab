"""Where hosts join by a token: HTTPS beside gRPC, for clients without a certificate that is good. GET /ca.pem, POST /join, POST /renew.

A guest reads ca.pem over a connection that proves nothing, compares it with its token's fingerprint, and speaks to nobody else then.
A host whose certificate ended while it was away has ca.pem, and asks by its key.
"""

from __future__ import annotations

import asyncio
import http
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine, format_timestamp
from tornado.iostream import StreamClosedError

from protheon_dask.broker.http import DEADLINE_S, MAX_CONNECTIONS, MAX_REQUEST_BYTES, Answer, BoundedServer, json_answer, listening_on
from protheon_dask.broker.looped import LoopedServer
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.errors import ConfigError, InvariantError, NotAllowed, ProtheonError, TransientError

logger = logging.getLogger(__name__)

CA_PATH, JOIN_PATH, RENEW_PATH = "/ca.pem", "/join", "/renew"
PEM: Final = "application/x-pem-file"
LOOK_PERIOD_S = 1.0
"""How often the certificate's file is looked at: a new one is shown from then on. It is renewed hours before the old one ends."""
N_THREADS = 2
"""That admit hosts, one after the other behind the authority's lock: a second one reads ca.pem meanwhile."""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /join. Its repr shows no secret."""

    invite: str  # hex
    secret: str  # hex
    host: str  # the name that it asks for
    csr: str  # PKCS #10 in PEM

    def __repr__(self) -> str:
        return f"JoinRequest(invite={self.invite!r}, host={self.host!r})"


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /renew: no secret is in it. The request's own signature proves that who asks has the key.

    One that was seen on the way and is sent again yields a certificate for the key of the host that made it, and for no other: it is
    worth nothing without that key.
    """

    host: str  # the name that it joined by
    csr: str  # PKCS #10 in PEM


class JoinReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a host that was admitted, or is back, is told. Nothing in it is secret."""

    host: str
    certificate: str  # PEM
    broker_port: int  # of gRPC, on the master


@dataclass(frozen=True, slots=True)
class Refusal:
    """The body of any other answer."""

    error: str


_Asked = TypeVar("_Asked", JoinRequest, RenewRequest)


class JoinPort(Protocol):
    """Admits hosts. Thread-safe; it may wait for the disk."""

    def ca_pem(self) -> bytes: ...
    def join(self, asked: JoinRequest, address: str) -> JoinReply:
        """address: of the network, for the log. Raises: NotAllowed: the token, or the name is taken. ConfigError: the request."""
        ...

    def renew(self, asked: RenewRequest, address: str) -> JoinReply:
        """Raises: NotAllowed: another key, it was removed, or away for too long. ConfigError: the request."""
        ...


class JoinServer:
    """Serves one JoinPort from the running event loop. Single use.

    Guarantee: as HttpServer: one request a connection, so many at a time, each for deadline_s, whatever its client does.
    """

    def __init__(self, port: JoinPort, tls: TlsFiles, *, max_connections: int, deadline_s: float) -> None:
        """Raises MissingSetting: of tls."""
        self._served, self._tls = port, tls
        tls.read()  # says what is missing
        self._stamp = tls.stamp()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
        self._context.load_cert_chain(tls.certificate, tls.key)
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="broker-join")
        self._answering: set[asyncio.Task[None]] = set()
        limits = {"max_header_size": MAX_REQUEST_BYTES, "max_body_size": MAX_REQUEST_BYTES, "max_buffer_size": 4 * MAX_REQUEST_BYTES}
        self._server = BoundedServer(
            self._reply, ssl_options=self._context, no_keep_alive=True, idle_connection_timeout=deadline_s, **limits
        )
        self._server.max_connections, self._server.deadline_s = max_connections, deadline_s
        self._looking: asyncio.TimerHandle | None = None

    async def serve(self, host: str, port: int) -> int:
        """Listen on host and port (0: any free one) and return the port. Raises: ConfigError: the address is taken, or not ours."""
        listening = listening_on(host, port, "HTTPS, for hosts that join", "join_port")
        self._server.add_sockets([listening])
        self._look()
        return int(listening.getsockname()[1])

    async def stop(self) -> None:
        """Listen no more, and close what is open; a host that is being admitted asks again."""
        if self._looking is not None:
            self._looking.cancel()
        self._server.stop()
        for task in self._answering:
            task.cancel()
        await self._server.close_all_connections()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> None:
        """Show the certificate that is in the file now."""
        if (stamp := self._tls.stamp()) != self._stamp:
            with suppress(OSError):  # ssl.SSLError too: it is being replaced; the old one serves until the next look
                self._context.load_cert_chain(self._tls.certificate, self._tls.key)
                self._stamp = stamp
        self._looking = asyncio.get_running_loop().call_later(LOOK_PERIOD_S, self._look)

    def _reply(self, request: HTTPServerRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_to(request))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer_to(self, request: HTTPServerRequest) -> None:
        answers: dict[tuple[str, str], Callable[[HTTPServerRequest], Awaitable[Answer]]] = {
            ("GET", CA_PATH): self._ca,
            ("POST", JOIN_PATH): self._join,
            ("POST", RENEW_PATH): self._renew,
        }
        found = answers.get((request.method or "", request.path))
        answer = NOTHING_ELSE if found is None else await found(request)
        headers = HTTPHeaders(
            {
                "Content-Type": answer.content_type,
                "Content-Length": str(len(answer.body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Date": format_timestamp(time.time()),
            }
        )
        connection = request.connection
        if connection is None:
            raise InvariantError("an HTTP request without its connection")
        with suppress(StreamClosedError):  # the guest has gone, or its time is over
            start = ResponseStartLine("", answer.code, http.HTTPStatus(answer.code).phrase)
            await connection.write_headers(start, headers, None if request.method == "HEAD" else answer.body)
            connection.finish()

    async def _ca(self, _: HTTPServerRequest) -> Answer:
        return Answer(200, PEM, self._served.ca_pem())

    async def _join(self, request: HTTPServerRequest) -> Answer:
        return await self._decided(request, JoinRequest, self._served.join)

    async def _renew(self, request: HTTPServerRequest) -> Answer:
        return await self._decided(request, RenewRequest, self._served.renew)

    async def _decided(self, request: HTTPServerRequest, kind: type[_Asked], decide: Callable[[_Asked, str], JoinReply]) -> Answer:
        if len(self._answering) > self._server.max_connections:  # those of connections that were closed go on until they are done
            return _refused(503, "too many hosts join at once: try again in a minute")
        try:
            asked = msgspec.json.decode(request.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):  # its words may quote the secret
            return _refused(400, f"the request is not JSON of {', '.join(kind.__struct_fields__)}, each a text")
        try:
            reply = await asyncio.get_running_loop().run_in_executor(self._pool, decide, asked, request.remote_ip or "")
        except NotAllowed as error:
            return _refused(403, str(error))
        except ConfigError as error:
            return _refused(400, str(error))
        except TransientError as error:
            return _refused(503, str(error))
        except (ProtheonError, OSError) as error:
            logger.error("join.fail", extra={"host": asked.host[:80], "error": str(error)})
            return _refused(500, "the master could not admit a host: its log says why")
        return json_answer(200, reply)


def _refused(code: int, error: str) -> Answer:
    return json_answer(code, Refusal(error))


NOTHING_ELSE: Final = _refused(404, f"there are GET {CA_PATH}, POST {JOIN_PATH} and POST {RENEW_PATH} alone")


class JoinThread(LoopedServer):
    """A JoinServer in a thread with an event loop of its own. start() raises MissingSetting, too: of tls."""

    def __init__(
        self,
        port: JoinPort,
        tls: TlsFiles,
        host: str,
        join_port: int,
        *,
        max_connections: int = MAX_CONNECTIONS,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        super().__init__("broker-join")
        self._served, self._tls, self._host, self._asked_port = port, tls, host, join_port
        self._max_connections, self._deadline_s = max_connections, deadline_s
        self._server: JoinServer | None = None

    async def _serve(self) -> int:
        # made in the loop: tornado asks for the running one
        self._server = JoinServer(self._served, self._tls, max_connections=self._max_connections, deadline_s=self._deadline_s)
        return await self._server.serve(self._host, self._asked_port)

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.stop()
