"""Protheon: compressed line files into PostgreSQL, on every machine you have, exactly once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protheon_dask.errors import ProtheonError, Reject, StillRunning
    from protheon_dask.notebook import Cluster, MoreRows, Run, connect, local, preview
    from protheon_dask.pipelines.declare import pipeline
    from protheon_dask.pipelines.function import TaskContext, task
    from protheon_dask.pipelines.pipeline import FILTERED
    from protheon_dask.pipelines.row import Row
    from protheon_dask.pipelines.sample import write_sample
    from protheon_dask.pipelines.table import Column, ForeignKey, Table

__version__ = "0.1.0"
__all__ = [
    "FILTERED",
    "Cluster",
    "Column",
    "ForeignKey",
    "MoreRows",
    "ProtheonError",
    "Reject",
    "Row",
    "Run",
    "StillRunning",
    "Table",
    "TaskContext",
    "__version__",
    "connect",
    "local",
    "pipeline",
    "preview",
    "task",
    "write_sample",
]

_HOMES = {
    "ProtheonError": "protheon_dask.errors",
    "Reject": "protheon_dask.errors",
    "StillRunning": "protheon_dask.errors",
    "Cluster": "protheon_dask.notebook",
    "MoreRows": "protheon_dask.notebook",
    "Run": "protheon_dask.notebook",
    "connect": "protheon_dask.notebook",
    "local": "protheon_dask.notebook",
    "pipeline": "protheon_dask.pipelines.declare",
    "preview": "protheon_dask.notebook",
    "FILTERED": "protheon_dask.pipelines.pipeline",
    "TaskContext": "protheon_dask.pipelines.function",
    "task": "protheon_dask.pipelines.function",
    "Row": "protheon_dask.pipelines.row",
    "Column": "protheon_dask.pipelines.table",
    "ForeignKey": "protheon_dask.pipelines.table",
    "Table": "protheon_dask.pipelines.table",
    "write_sample": "protheon_dask.pipelines.sample",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: every tether and splitter imports this package, and starts at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value
