"""The broker's server for a caller without an event loop: a thread that has one."""

from __future__ import annotations

from collections.abc import Callable

from protheon_dask.broker.looped import LoopedServer
from protheon_dask.broker.ports import ChunkPort, ClusterPort, PinPort, RunPort, TaskPort
from protheon_dask.broker.server import BrokerServer
from protheon_dask.broker.tls import TlsFiles

GRACE_S = 1.0
"""What an end leaves to calls that are being answered."""


class BrokerThread(LoopedServer):
    """A BrokerServer in a thread with an event loop of its own."""

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
        super().__init__("broker")
        self._server, self._host, self._asked_port = BrokerServer(runs, chunks, tasks, on_sent, pins, cluster), host, port
        self._tls, self._grace_s = tls, GRACE_S

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End it as BrokerServer.stop() does, and wait for that. Safe to repeat."""
        self._grace_s = grace_s
        super().stop()

    async def _serve(self) -> int:
        return await self._server.serve(self._host, self._asked_port, self._tls)

    async def _end(self) -> None:
        await self._server.stop(self._grace_s)
