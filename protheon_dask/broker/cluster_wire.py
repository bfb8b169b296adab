"""Messages about hosts to values and back: beside wire, for ClusterService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from protheon_dask.broker._pb import cluster_pb2
from protheon_dask.broker.wire import utf8

EVERYWHERE: Final = ("0.0.0.0", "[::]", "::", "")  # nothing is bound here
"""Hosts of an address that listens on all of a machine's."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What must agree on all hosts: ``"3.11.7"``, and versions of libraries by name."""

    python: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a host needs to work. Over plaintext the secrets are empty: the host needs its own."""

    scheduler_address: str  # tls://host:port or tcp://host:port; host 0.0.0.0 or [::]: the one that the master was reached by
    version: str
    versions: Versions
    settings: Mapping[str, str]  # those that must agree on all hosts, by their names in `protheon config`
    database_url: str = field(default="", repr=False)
    cluster_key: bytes = field(default=b"", repr=False)
    is_scheduler_everywhere: bool = False  # it listens on all addresses of its machine; as seen_from has found


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as the master knows it."""

    name: str
    n_workers: int = 0
    aside: str = ""  # why no work is given to it; empty: it works
    versions: Versions = Versions()
    certificate_until: str = ""  # RFC 3339; empty without TLS
    is_removed: bool = False
    join_no: int = 0  # how often it joined; 0: without TLS
    workers: Sequence[str] = ()  # names of its worker processes: a host tells by them which are of its last start


@dataclass(frozen=True, slots=True)
class HostList:
    """The hosts of a cluster, and what the master tells of itself beside them."""

    now_s: float  # the master's clock, seconds of the epoch
    version: str
    versions: Versions
    hosts: Sequence[HostView]


def versions_to_message(value: Versions) -> cluster_pb2.HostVersions:
    return cluster_pb2.HostVersions(python=utf8(value.python), libraries={utf8(k): utf8(v) for k, v in value.libraries.items()})


def versions_from_message(message: cluster_pb2.HostVersions) -> Versions:
    return Versions(message.python, dict(message.libraries))


def enrol_message(host: str, version: str, versions: Versions) -> cluster_pb2.EnrolRequest:
    return cluster_pb2.EnrolRequest(host=utf8(host), version=utf8(version), versions=versions_to_message(versions))


def enrolment_to_message(value: Enrolment) -> cluster_pb2.EnrolResponse:
    return cluster_pb2.EnrolResponse(
        scheduler_address=value.scheduler_address,
        database_url=value.database_url,
        cluster_key=value.cluster_key,
        settings={utf8(k): utf8(v) for k, v in value.settings.items()},
        version=value.version,
        versions=versions_to_message(value.versions),
    )


def enrolment_from_message(message: cluster_pb2.EnrolResponse) -> Enrolment:
    return Enrolment(
        message.scheduler_address,
        message.version,
        versions_from_message(message.versions),
        dict(message.settings),
        message.database_url,
        message.cluster_key,
    )


def seen_from(value: Enrolment, broker_address: str) -> Enrolment:
    """The same for a host that reached the broker by this address: a scheduler that listens everywhere is where the broker is."""
    address = reached_from(value.scheduler_address, broker_address.rpartition(":")[0])
    return replace(value, scheduler_address=address, is_scheduler_everywhere=_listens(value.scheduler_address) in EVERYWHERE)


def reached_from(scheduler_address: str, host: str) -> str:
    """The scheduler's address for who reaches its machine by this host: one that listens on all of its addresses is there."""
    scheme, _, place = scheduler_address.partition("://")
    return f"{scheme}://{host}:{place.rpartition(':')[2]}" if _listens(scheduler_address) in EVERYWHERE else scheduler_address


def _listens(scheduler_address: str) -> str:
    return scheduler_address.partition("://")[2].rpartition(":")[0]


def renew_message(request_pem: bytes) -> cluster_pb2.RenewRequest:
    return cluster_pb2.RenewRequest(request_pem=request_pem)


def renewed_from_message(message: cluster_pb2.RenewResponse) -> bytes:
    return message.certificate_pem


def renewed_to_message(certificate_pem: bytes) -> cluster_pb2.RenewResponse:
    return cluster_pb2.RenewResponse(certificate_pem=certificate_pem)


def hosts_message() -> cluster_pb2.HostsRequest:
    return cluster_pb2.HostsRequest()


def hosts_to_message(value: HostList) -> cluster_pb2.HostsResponse:
    return cluster_pb2.HostsResponse(
        now_s=value.now_s,
        version=value.version,
        versions=versions_to_message(value.versions),
        hosts=[
            cluster_pb2.Host(
                name=utf8(host.name),
                n_workers=host.n_workers,
                aside=utf8(host.aside),
                versions=versions_to_message(host.versions),
                certificate_until=host.certificate_until,
                is_removed=host.is_removed,
                join_no=host.join_no,
                workers=[utf8(worker) for worker in host.workers],
            )
            for host in value.hosts
        ],
    )


def hosts_from_message(message: cluster_pb2.HostsResponse) -> HostList:
    hosts = [
        HostView(
            host.name,
            host.n_workers,
            host.aside,
            versions_from_message(host.versions),
            host.certificate_until,
            host.is_removed,
            host.join_no,
            tuple(host.workers),
        )
        for host in message.hosts
    ]
    return HostList(message.now_s, message.version, versions_from_message(message.versions), hosts)


def echo_message(n_bytes: int) -> cluster_pb2.EchoRequest:
    return cluster_pb2.EchoRequest(n_bytes=n_bytes)


def echoed_to_message(data: bytes) -> cluster_pb2.EchoResponse:
    return cluster_pb2.EchoResponse(data=data)
