"""Protheon: compressed line files into PostgreSQL, on every machine you have, exactly once."""

from __future__ import annotations

from protheon_dask.errors import ProtheonError, Reject

__version__ = "0.1.0"
__all__ = ["ProtheonError", "Reject", "__version__"]
