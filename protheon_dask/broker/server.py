"""The gRPC server of the master: its services, health, and reflection on loopback. Async; its ports are plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protheon_dask.broker._pb import chunk_pb2_grpc, cluster_pb2_grpc, run_pb2_grpc, task_pb2_grpc
from protheon_dask.broker.calls import Pool
from protheon_dask.broker.chunk_service import CHUNK_SERVICE, ChunkService
from protheon_dask.broker.cluster_service import CLUSTER_SERVICE, ClusterService
from protheon_dask.broker.cluster_wire import EVERYWHERE
from protheon_dask.broker.gate import Gate
from protheon_dask.broker.open_files import open_files
from protheon_dask.broker.peers import is_loopback
from protheon_dask.broker.ports import ChunkPort, ClusterPort, PinPort, RunPort, TaskPort
from protheon_dask.broker.run_service import RUN_SERVICE, RunService
from protheon_dask.broker.task_service import TASK_SERVICE, TaskService
from protheon_dask.broker.tls import TlsFiles, server_credentials
from protheon_dask.errors import ConfigError

OPTIONS: Final = (
    # measured, PITFALLS 8: without the first a second broker takes the same port without a word; without the others pings
    # are answered by GOAWAY, or a frozen client is never noticed
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # strangers: who does not speak within 20 s is hung up on, and who has asked nothing for ten minutes (the next call connects anew)
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # a certificate is looked at when a connection is made: none outlives its own by more than an hour; calls that are open go on
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
)
MIN_CONNECTIONS: Final = 64
"""Let in at a time however few files this process may open."""
SERVICES: Final = (CHUNK_SERVICE, RUN_SERVICE)


class BrokerServer:
    """Serves its ports from the running event loop. Single use.

    tasks:   None: the general queue is not served here.
    pins:    None: chunks are not kept here for anybody but runs.
    cluster: None: hosts cannot enrol here, and none is known to be removed.
    on_sent: called in the loop with (chunk_id, bytes) after each message: count and return.
    Guarantee: memory is a few messages a stream, however slow its reader, who is left after calls.READER_S; nothing blocks the loop.
    """

    def __init__(
        self,
        runs: RunPort,
        chunks: ChunkPort,
        tasks: TaskPort | None = None,
        on_sent: Callable[[int, int], None] | None = None,
        pins: PinPort | None = None,
        cluster: ClusterPort | None = None,
    ) -> None:
        self._pools = [Pool(name) for name in ("run", "task", "find", "read", "pin", "report", "cluster")]
        run_pool, task_pool, find_pool, read_pool, pin_pool, report_pool, cluster_pool = self._pools
        self._runs = RunService(runs, run_pool, report_pool.executor)
        self._tasks = None if tasks is None else TaskService(tasks, task_pool)
        self._chunks = ChunkService(chunks, pins, find_pool, read_pool.executor, pin_pool, on_sent)
        self._cluster = None if cluster is None else ClusterService(cluster, cluster_pool)
        self._gate = Gate(_nobody if cluster is None else cluster.is_removed)
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs do not know it

    async def serve(self, host: str, port: int, tls: TlsFiles | None = None) -> int:
        """Listen on host and port (0: any free one) and return the port.

        Where host is one of this machine's addresses it listens on loopback too: by that clients of this machine are known as such.
        tls: mutual; None: plaintext.
        Raises: ConfigError: the address is taken, or not this machine's; nothing listens then. MissingSetting: of tls.
        """
        # strangers, whom TLS refuses only after they have spoken, leave half of the files to chunks and to PostgreSQL
        options = (*OPTIONS, ("grpc.max_allowed_incoming_connections", max(MIN_CONNECTIONS, open_files() // 2)))
        server = aio.server(options=options, interceptors=(self._gate,))
        chunk_pb2_grpc.add_ChunkServiceServicer_to_server(self._chunks, server)
        run_pb2_grpc.add_RunServiceServicer_to_server(self._runs, server)
        services: tuple[str, ...] = SERVICES
        if self._tasks is not None:
            task_pb2_grpc.add_TaskServiceServicer_to_server(self._tasks, server)
            services = (*services, TASK_SERVICE)
        if self._cluster is not None:
            cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self._cluster, server)
            services = (*services, CLUSTER_SERVICE)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if is_loopback(host):
            reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        credentials = None if tls is None else server_credentials(tls)
        bound_port = port
        for one in (host,) if host in EVERYWHERE or is_loopback(host) else (host, "127.0.0.1"):
            address = f"[{one}]:{bound_port}" if ":" in one else f"{one}:{bound_port}"
            try:
                bound_port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
            except RuntimeError as error:
                raise ConfigError(f"cannot listen on {address}: is another broker there? Stop it, or choose another port") from error
        self._server = server
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        return bound_port

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, let open ones run for grace_s, then end them; clients resume elsewhere or later."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)
        if self._tasks is not None:
            self._tasks.stop()
        self._gate.stop()
        for pool in self._pools:
            pool.shutdown()


def _nobody(_host: str, _serial_no: int) -> bool:
    return False
