"""A look at one host, by a process that runs there: this one, a worker, or the scheduler. For ``protheon doctor``.

look() is what Dask carries to the others: it takes and gives simple values, as hosts may have other versions of Protheon.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from protheon_dask import __version__
from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings
from protheon_dask.errors import ProtheonError
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.fitness import server_facts, server_way
from protheon_dask.run.settings import read_settings, workspace_of
from protheon_dask.run.versions import own_versions
from protheon_dask.run.vitals import Disk, HostVitals, MasterWay
from protheon_dask.workspace.chunkfile import default_quota_bytes

APPLICATION: Final = "protheon-doctor"
ASKED: Final = 5
"""Round trips to the master, of which the middle one counts."""
ECHO_BYTES: Final = (1 << 20, 16 << 20)
"""Asked of the master to see how fast it comes: the second only where the first was here within SHORT_S."""
SHORT_S: Final = 0.3


async def look(what: Mapping[str, Any]) -> dict[str, Any]:
    """Look at the host that this worker process is on, on a thread: its loop goes on with heartbeats meanwhile.

    what: "ways": to master and database, too; "bench_s": seconds for each stage of the sample, 0: no bench.
    """
    return await asyncio.to_thread(_look_from_worker, bool(what["ways"]), float(what["bench_s"]))


def look_from_scheduler() -> dict[str, Any]:
    """Look at the scheduler's host, and at the workspace there, if the settings that our master gave it say where that is."""
    settings = read_settings({}).settings
    return {"vitals": asdict(vitals(settings)), "disk": asdict(disk(settings))}


def _look_from_worker(with_ways: bool, bench_s: float) -> dict[str, Any]:
    from protheon_dask.run.worker import current_process

    found = asdict(vitals(read_settings({}).settings))
    try:
        process = current_process()
    except ProtheonError as exc:  # somebody else's worker
        return {**found, "master_trouble": str(exc), "database_trouble": str(exc), "bench_trouble": str(exc)}
    found["host"] = process.worker.host
    if with_ways:
        found |= master_way(process.broker) | database_way(process.settings.database_url)
    if bench_s:
        found |= bench_here(process.settings.database_url, bench_s)
    return found


def vitals(settings: Settings) -> HostVitals:
    """What there is on this host; asks nobody."""
    return HostVitals(
        host=socket.gethostname(),
        version=__version__,
        versions=own_versions(),
        n_cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        disk_free_bytes=psutil.disk_usage(str(_existing(workspace_of(settings)))).free,
        open_files=_open_files(),
        has_battery=getattr(psutil, "sensors_battery", lambda: None)() is not None,
    )


def _existing(path: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def disk(settings: Settings, embedded_dir: Path | None = None) -> Disk:
    """The workspace on this host. embedded_dir: data of the embedded PostgreSQL that fill a disk, too."""
    directory = workspace_of(settings)
    there = _existing(directory)
    used_bytes = sum(path.stat().st_size for path in directory.rglob("*.zst")) if directory.exists() else 0
    is_shared = embedded_dir is not None and _existing(embedded_dir).stat().st_dev == there.stat().st_dev
    return Disk(
        host=socket.gethostname(),
        directory=str(directory),
        free_bytes=psutil.disk_usage(str(there)).free,
        quota_bytes=settings.workspace_quota_bytes or default_quota_bytes(there),
        used_bytes=used_bytes,
        shared_with=str(embedded_dir) if is_shared else "",
    )


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


__all__ = ["APPLICATION", "bench_here", "database_way", "disk", "look", "look_from_scheduler", "master_way", "vitals"]
