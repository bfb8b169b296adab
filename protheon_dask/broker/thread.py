"""The broker's server for a caller without an event loop: a thread that has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Self

from protheon_dask.broker.ports import ChunkPort, ClusterPort, PinPort, RunPort, TaskPort
from protheon_dask.broker.server import BrokerServer
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.errors import InvariantError


class BrokerThread:
    """A BrokerServer in a thread with an event loop of its own, for a caller that has none. Single use; a context manager."""

    def __init__(
        self,
        runs: RunPort,
        chunks: ChunkPort,
        host: str,
        port: int,
        *,
        tasks: TaskPort | None = None,
        on_sent: Callable[[int, int], None] | None = None,
        pins: PinPort | None = None,
        cluster: ClusterPort | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self._server, self._host, self._asked_port = BrokerServer(runs, chunks, tasks, on_sent, pins, cluster), host, port
        self._tls = tls
        self._port: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="broker", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on; only after start()."""
        if self._port is None:
            raise InvariantError("BrokerThread.port was asked for before start()")
        return self._port

    def start(self) -> int:
        """Listen, and return the port. Raises: ConfigError, as serve(); the thread has ended then."""
        self._thread.start()
        try:
            self._port = asyncio.run_coroutine_threadsafe(self._server.serve(self._host, self._asked_port, self._tls), self._loop).result()
        finally:
            if self._port is None:
                self.stop(0.0)
        return self._port

    def stop(self, grace_s: float = 1.0) -> None:
        """End it as BrokerServer.stop() does, and wait for that. Safe to repeat."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._server.stop(grace_s), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
