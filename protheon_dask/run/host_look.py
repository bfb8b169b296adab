"""A look at one host, by a process that runs there: this one, a worker, or the scheduler. For ``protheon doctor``.

look() is what Dask carries to the others: it takes and gives simple values, as hosts may have other versions of Protheon.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import psutil

from protheon_dask import __version__
from protheon_dask.broker import open_files
from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings
from protheon_dask.errors import ProtheonError
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.fitness import server_facts, server_way
from protheon_dask.run.machine import this_machine
from protheon_dask.run.settings import read_settings, workspace_of
from protheon_dask.run.trust.identity import own_name, tls_of
from protheon_dask.run.versions import own_versions
from protheon_dask.run.vitals import Disk, HostVitals, MasterWay
from protheon_dask.workspace.chunkfile import default_quota_bytes

if TYPE_CHECKING:
    from distributed import Worker

APPLICATION: Final = "protheon-doctor"
ASKED: Final = 5
"""Round trips to the master, of which the middle one counts."""
ECHO_BYTES: Final = (1 << 20, 16 << 20)
"""Asked of the master to see how fast it comes: the second only where the first was here within SHORT_S."""
SHORT_S: Final = 0.3
PEER_S: Final = 10.0
"""How long another host's worker, or the place where hosts join, may take to answer: as Dask has it for a connection."""


async def look(what: Mapping[str, Any], dask_worker: Worker | None = None) -> dict[str, Any]:
    """Look at the host that this worker process is on, on a thread: its loop goes on with heartbeats meanwhile.

    what: "ways": to master and database, too; "bench_s": seconds for each stage of the sample, 0: no bench; "peers": addresses of workers
    of other hosts, by host, that are to be called as Dask would. dask_worker: filled in by Dask.
    """
    peers: Mapping[str, str] = what.get("peers") or {}
    looked = asyncio.to_thread(_look_from_worker, bool(what["ways"]), float(what["bench_s"]))
    called = asyncio.gather(*(_trouble_with(dask_worker, address) for address in peers.values()))
    found, troubles = await asyncio.gather(looked, called)
    return {**found, "peers": dict(zip(peers, troubles, strict=True))}


async def _trouble_with(worker: Worker | None, address: str) -> str:
    """Call another worker, by this one's own connections and certificate; why that fails, empty: it answers."""
    if worker is None:
        return "this process is no worker of Dask"
    try:
        await asyncio.wait_for(worker.rpc(address).identity(), PEER_S)
        return ""
    except TimeoutError:
        return f"{address} has not answered for {PEER_S:g} s"
    except (OSError, ValueError) as exc:  # ValueError: a certificate that Dask cannot use
        return f"{address}: {exc or type(exc).__name__}"


async def look_from_scheduler() -> dict[str, Any]:
    """Look at the scheduler's host, and at the workspace there, if the settings that our master gave it say where that is.

    On a thread: a workspace may have very many files, or be on a slow disk, and the scheduler's loop hands out work meanwhile.
    """
    return await asyncio.to_thread(_look_from_scheduler)


def _look_from_scheduler() -> dict[str, Any]:
    settings = read_settings({}).settings
    way = database_way(settings.database_url) if settings.database_url else {}  # none: somebody else's scheduler
    return {"vitals": asdict(vitals(settings)) | way, "disk": asdict(disk(settings))}


def _look_from_worker(with_ways: bool, bench_s: float) -> dict[str, Any]:
    from protheon_dask.run.worker import borrowed_process

    found = asdict(vitals(read_settings({}).settings))
    with ExitStack() as stack:
        try:
            process = stack.enter_context(borrowed_process())
        except ProtheonError as exc:  # somebody else's worker
            return {**found, "master_trouble": str(exc), "database_trouble": str(exc), "bench_trouble": str(exc)}
        found["host"] = process.worker.host
        if with_ways:
            found |= master_way(process.broker) | database_way(process.settings.database_url) | joining_way(process.settings)
        if bench_s:
            found |= bench_here(process.settings.database_url, bench_s)
    return found


def vitals(settings: Settings) -> HostVitals:
    """What there is on this host; asks nobody."""
    machine = this_machine()
    temporary_dir, temporary_free_bytes = _temporary()
    return HostVitals(
        host=own_name(settings),
        version=__version__,
        versions=own_versions(),
        n_cores=machine.whole_cores,
        memory_bytes=machine.memory_bytes,
        disk_free_bytes=psutil.disk_usage(str(_existing(workspace_of(settings)))).free,
        open_files=open_files.limit(),
        has_battery=getattr(psutil, "sensors_battery", lambda: None)() is not None,
        temporary_dir=temporary_dir,
        temporary_free_bytes=temporary_free_bytes,
    )


def _temporary() -> tuple[str, int | None]:
    """Where this process makes temporary files, and the bytes that are free there; why it can make none, and None."""
    try:
        directory = tempfile.gettempdir()
        return directory, psutil.disk_usage(directory).free
    except OSError as exc:
        return str(exc), None


def _existing(path: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def disk(settings: Settings, embedded_dir: Path | None = None) -> Disk:
    """The workspace on this host. embedded_dir: data of the embedded PostgreSQL that fill a disk, too."""
    directory = workspace_of(settings)
    there = _existing(directory)
    used_bytes = _stored_bytes(directory)
    is_shared = embedded_dir is not None and _existing(embedded_dir).stat().st_dev == there.stat().st_dev
    return Disk(
        host=own_name(settings),
        directory=str(directory),
        free_bytes=psutil.disk_usage(str(there)).free,
        quota_bytes=settings.workspace_quota_bytes or default_quota_bytes(there),
        used_bytes=used_bytes,
        shared_with=str(embedded_dir) if is_shared else "",
    )


def _stored_bytes(directory: Path) -> int:
    """Of chunk files; a run may delete any of them meanwhile."""
    n_bytes = 0
    for place, _, names in os.walk(directory):  # one that is not there has none
        for name in names:
            if name.endswith(".zst"):
                with suppress(FileNotFoundError):
                    n_bytes += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118  # twice as quick: there may be 100,000
    return n_bytes


def master_way(broker: BrokerClient) -> dict[str, Any]:
    """Measure the way to the master: fields of HostVitals."""
    try:
        looks = []
        for _ in range(ASKED):
            asked_at, asked_s = time.time(), time.perf_counter()
            now_s = broker.hosts().now_s
            took_s = time.perf_counter() - asked_s
            looks.append((took_s, asked_at + took_s / 2 - now_s))
        rates = []
        for n_bytes in ECHO_BYTES:
            began_s = time.perf_counter()
            broker.echo(n_bytes)
            took_s = time.perf_counter() - began_s
            rates.append(n_bytes / took_s)
            if took_s > SHORT_S:
                break
    except ProtheonError as exc:
        return {"master_trouble": str(exc)}
    best_s, offset_s = min(looks)  # the quickest says most of the clock
    return {"to_master": asdict(MasterWay(median(took_s for took_s, _ in looks), rates[-1], offset_s, best_s / 2))}


def joining_way(settings: Settings) -> dict[str, Any]:
    """See that the master is reached where hosts join, and come back after a time away: fields of HostVitals.

    One of the places that were noted when this host joined is enough. Nothing is looked at on the master itself.
    """
    from protheon_dask.run.trust.membership import membership_of  # here: without TLS nobody needs cryptography

    troubles = []
    try:
        member = membership_of(tls) if (tls := tls_of(settings)) is not None else None
    except ProtheonError as exc:
        return {"joining_trouble": str(exc)}
    for address in member.joining if member is not None else ():
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PEER_S).close()
        except (OSError, ValueError) as exc:
            troubles.append(f"{address}: {getattr(exc, 'strerror', None) or exc}")
        else:
            return {"joining": address}
    return {"joining_trouble": "; ".join(troubles)}


def database_way(url: str) -> dict[str, Any]:
    """Ask the database what it allows, and measure the way to it: fields of HostVitals."""
    try:
        with opened(url, application=APPLICATION) as conn:
            return {"server": asdict(server_facts(conn)), "to_database": asdict(server_way(conn))}
    except ProtheonError as exc:
        return {"database_trouble": str(exc)}


def bench_here(url: str | None, stage_s: float) -> dict[str, Any]:
    """Measure the sample in this process: fields of HostVitals."""
    from protheon_dask.run.measure import bench_sample

    return {"benched": asdict(bench_sample(url, stage_s))}


__all__ = ["APPLICATION", "bench_here", "database_way", "disk", "joining_way", "look", "look_from_scheduler", "master_way", "vitals"]
