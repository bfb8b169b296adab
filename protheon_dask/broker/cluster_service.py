"""ClusterService: hosts that join, renew their certificates, and measure the way to the master."""

from __future__ import annotations

# ruff: noqa: N802  # the methods of a service are named by the .proto
from typing import Final

from protheon_dask.broker import cluster_wire
from protheon_dask.broker._pb import cluster_pb2, cluster_pb2_grpc
from protheon_dask.broker.calls import Context, Pool, abort, write
from protheon_dask.broker.peers import peer_of
from protheon_dask.broker.ports import ClusterPort
from protheon_dask.errors import ConfigError, ProtheonError

CLUSTER_SERVICE: Final = cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"].full_name
ECHO_BYTES: Final = 1 << 20
"""One message of an echo."""
MAX_ECHO_BYTES: Final = 64 << 20
"""Longest echo: at 100 Mbit/s it takes 5.4 s."""


class ClusterService(cluster_pb2_grpc.ClusterServiceServicer):
    """Answers from a ClusterPort. Who asks is the host that his certificate names, whatever he writes."""

    def __init__(self, port: ClusterPort, pool: Pool) -> None:
        self._port, self._pool = port, pool

    async def Enrol(self, request: cluster_pb2.EnrolRequest, context: Context) -> cluster_pb2.EnrolResponse:
        versions = cluster_wire.versions_from_message(request.versions)
        found = await self._pool.answer(context, self._port.enrol, request.host, request.version, versions, peer_of(context))
        return cluster_wire.enrolment_to_message(found)

    async def Renew(self, request: cluster_pb2.RenewRequest, context: Context) -> cluster_pb2.RenewResponse:
        renewed = await self._pool.answer(context, self._port.renew, request.request_pem, peer_of(context))
        return cluster_wire.renewed_to_message(renewed)

    async def Hosts(self, request: cluster_pb2.HostsRequest, context: Context) -> cluster_pb2.HostsResponse:  # noqa: ARG002  # the service's shape
        return cluster_wire.hosts_to_message(await self._pool.answer(context, self._port.hosts))

    async def Echo(self, request: cluster_pb2.EchoRequest, context: Context) -> None:  # type: ignore[override]  # writes, yields nothing
        if not 0 <= request.n_bytes <= MAX_ECHO_BYTES:
            await abort(context, ConfigError(f"n_bytes={request.n_bytes}: an echo has 0 to {MAX_ECHO_BYTES} bytes"))
        whole, rest = divmod(request.n_bytes, ECHO_BYTES)
        message = cluster_wire.echoed_to_message(bytes(ECHO_BYTES))
        try:
            for _ in range(whole):
                await write(context, message)
            if rest:
                await write(context, cluster_wire.echoed_to_message(bytes(rest)))
        except ProtheonError as error:  # nothing was read
            await abort(context, error)
