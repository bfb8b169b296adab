"""Protheon: compressed line files into PostgreSQL, on every machine you have, exactly once."""

from __future__ import annotations

from protheon_dask.errors import ProtheonError, Reject
from protheon_dask.pipelines.declare import pipeline
from protheon_dask.pipelines.pipeline import FILTERED
from protheon_dask.pipelines.row import Row
from protheon_dask.pipelines.table import Column, ForeignKey, Table

__version__ = "0.1.0"
__all__ = ["FILTERED", "Column", "ForeignKey", "ProtheonError", "Reject", "Row", "Table", "__version__", "pipeline"]
