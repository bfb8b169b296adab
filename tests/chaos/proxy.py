"""A TCP proxy that the campaign puts before PostgreSQL and before the broker, one for each host: a network that can fail.

It holds bytes back in one direction (a black hole: both ends still think that the line is good), cuts, refuses, slows down, and loses
the COMMIT of a data transaction in one of three ways. It knows enough of PostgreSQL's protocol to say what a connection was doing.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

PIECE_BYTES = 65_536
LOOK_S = 0.05
"""How soon a thread that holds bytes back notices that its connection was cut."""
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The simple query COMMIT in PostgreSQL's protocol."""
TASK_LOCK = b"pg_advisory_xact_lock"
"""In what begins a data transaction."""
TASK_KEY = re.compile(rb"PRO([\x00-\xff]{5})|(?<![0-9])([0-9]{19})(?![0-9])")
"""The task's advisory lock among the parameters of what begins a data transaction, in binary or in digits (DESIGN 6)."""
TASK_BITS = (1 << 40) - 1
READY = b"Z\x00\x00\x00\x05"
"""The server's ReadyForQuery; the byte after it says whether a transaction is open."""


class Direction(StrEnum):
    UP = "up"  # client to server
    DOWN = "down"


class Loss(StrEnum):
    """What happens to the next COMMIT of a data transaction."""

    ANSWER = "answer"  # it happens, and the client never hears of it
    COMMIT = "commit"  # it never reaches the server
    LATE = "late"  # the client's connection breaks, and the COMMIT reaches the server late_s later


class Link:
    """One connection through the proxy. Its two threads alone write to it; others read."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.server_side_port = int(server.getsockname()[1])  # what PostgreSQL calls client_port
        self.is_cut = threading.Event()
        self.is_data = False  # a data transaction is, or was, open on it
        self.task_id: int | None = None  # whose transaction it is
        self.commit_in_flight = False
        self.swallows_answer = False
        self.moved_at = {Direction.UP: 0.0, Direction.DOWN: 0.0}  # monotonic
        self.n_bytes = {Direction.UP: 0, Direction.DOWN: 0}

    def cut(self) -> None:
        """Break it for both ends."""
        self.is_cut.set()
        for sock in (self.client, self.server):
            hang_up(sock)


def hang_up(sock: socket.socket) -> None:
    """End both directions of a socket; whoever waits on it wakes."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def task_of(data: bytes) -> int | None:
    """The task whose advisory lock is asked for in these bytes."""
    for found in TASK_KEY.finditer(data, data.index(TASK_LOCK)):
        return int.from_bytes(found[1], "big") if found[1] is not None else int(found[2]) & TASK_BITS
    return None


class Proxy:
    """Forwards connections to server until it is told to fail. A context manager. Thread-safe.

    port:        where it listens on loopback.
    rate_bytes_per_s: of what comes down, for each connection; None: as fast as it goes.
    """

    def __init__(self, server: tuple[str, int], *, rate_bytes_per_s: float | None = None) -> None:
        self._server, self._rate = server, rate_bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._open = {Direction.UP: threading.Event(), Direction.DOWN: threading.Event()}
        for gate in self._open.values():
            gate.set()
        self._loss: Loss | None = None
        self._late_s = 0.0
        self._on_lost: Callable[[Loss, Link], object] = lambda _loss, _link: None
        self._is_away = False
        self._is_closed = threading.Event()
        self._threads: list[threading.Thread] = []

    # --- what can go wrong ------------------------------------------------------------------------------------------------

    @property
    def links(self) -> list[Link]:
        """The connections that are open."""
        with self._lock:
            self._links = [link for link in self._links if not link.is_cut.is_set()]
            return list(self._links)

    def cut(self) -> int:
        """Break every connection; return how many there were. New ones are taken."""
        links = self.links
        for link in links:
            link.cut()
        return len(links)

    def refuse(self, is_away: bool) -> None:
        """Hang up on new connections from now on, or not any more."""
        self._is_away = is_away

    def hold_back(self, direction: Direction) -> None:
        """Let no byte through in this direction, of old and new connections; it is kept, as a network that retries keeps it."""
        self._open[direction].clear()

    def let_through(self, direction: Direction) -> None:
        """End hold_back(): what was kept arrives, late."""
        self._open[direction].set()

    def arm(self, loss: Loss, on_lost: Callable[[Loss, Link], object], *, late_s: float = 0.0) -> None:
        """Lose the next COMMIT of a data transaction in this way, and say so."""
        with self._lock:
            self._loss, self._on_lost, self._late_s = loss, on_lost, late_s

    def disarm(self) -> bool:
        """Lose no COMMIT; True: none was lost since arm()."""
        with self._lock:
            was_armed, self._loss = self._loss is not None, None
            return was_armed

    def is_moving(self, direction: Direction, within_s: float, least_bytes: int) -> bool:
        """Is something larger under way in this direction just now?"""
        now = time.monotonic()
        return any(link.n_bytes[direction] >= least_bytes and now - link.moved_at[direction] < within_s for link in self.links)

    # --- forwarding -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self._is_closed.set()
        hang_up(self._listener)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join(5)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._is_away:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._server, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = Link(client, server)
            with self._lock:
                self._links.append(link)
            self._start(self._forward, link, Direction.UP)
            self._start(self._forward, link, Direction.DOWN)

    def _forward(self, link: Link, direction: Direction) -> None:
        source, sink = (link.client, link.server) if direction is Direction.UP else (link.server, link.client)
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                while not self._open[direction].wait(LOOK_S):
                    if link.is_cut.is_set() or self._is_closed.is_set():
                        raise ConnectionAbortedError
                if direction is Direction.UP and self._strikes(link, data):
                    return  # its other thread, or the late COMMIT, ends it
                if direction is Direction.DOWN and link.swallows_answer:
                    break
                self._note(link, direction, data)
                sink.sendall(data)
                if self._rate is not None and direction is Direction.DOWN:
                    time.sleep(len(data) / self._rate)
            else:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                if direction is Direction.UP:
                    return  # the server's last words still come down
        self._end(link)

    def _end(self, link: Link) -> None:
        link.cut()
        for sock in (link.client, link.server):
            with contextlib.suppress(OSError):
                sock.close()
        with self._lock:
            if link in self._links:
                self._links.remove(link)

    def _note(self, link: Link, direction: Direction, data: bytes) -> None:
        now = time.monotonic()
        if now - link.moved_at[direction] > 1.0:
            link.n_bytes[direction] = 0  # another message began
        link.n_bytes[direction] += len(data)
        link.moved_at[direction] = now
        if direction is Direction.UP:
            if TASK_LOCK in data:
                link.is_data, link.task_id = True, task_of(data)
            link.commit_in_flight = link.commit_in_flight or (link.is_data and data.endswith(COMMIT))
        elif link.is_data and data[-6:-1] == READY and data[-1:] == b"I":
            link.is_data = link.commit_in_flight = False

    def _strikes(self, link: Link, data: bytes) -> bool:
        """Lose this COMMIT if it is one and a loss is armed; True: nothing more is forwarded from the client."""
        if not (link.is_data and data.endswith(COMMIT)):
            return False
        with self._lock:
            loss, self._loss = self._loss, None
        if loss is None:
            return False
        self._on_lost(loss, link)
        if loss is Loss.ANSWER:
            link.swallows_answer = True
            link.server.sendall(data)
        elif loss is Loss.COMMIT:
            link.cut()
        else:
            hang_up(link.client)
            self._start(self._commit_late, link, data, self._late_s)
        return True

    def _commit_late(self, link: Link, data: bytes, late_s: float) -> None:
        self._is_closed.wait(late_s)
        with contextlib.suppress(OSError):
            link.server.sendall(data)
            link.server.shutdown(socket.SHUT_WR)


__all__ = ["Direction", "Link", "Loss", "Proxy"]
