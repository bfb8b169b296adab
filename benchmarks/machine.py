"""The machine that was measured on, without host names and paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

SETTINGS: Final = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "data_checksums",
)
"""PostgreSQL's settings that decide how fast it can be loaded."""

PACKAGES: Final = ("dask", "distributed", "grpcio", "msgspec", "psycopg", "zstandard")


def describe(url: str) -> dict[str, Any]:
    """Cores, memory, kernel, processor, PostgreSQL with its settings, Python and the packages on the hot path."""
    with psycopg.connect(url) as conn:
        server = conn.execute("SHOW server_version").fetchone()
        rows = conn.execute("SELECT name, current_setting(name) FROM pg_catalog.pg_settings WHERE name = ANY(%s)", (list(SETTINGS),))
        settings: dict[str, str] = dict(rows.fetchall())
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cpu": _processor(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "postgresql": server[0] if server else None,
        "settings": {name: settings[name] for name in SETTINGS if name in settings},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
