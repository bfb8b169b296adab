"""The ledger's statements, read once from their files: one verb or question, one file."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def statement(name: str) -> bytes:
    """The text of sql/<name>.sql."""
    return resources.files("protheon_dask.ledger").joinpath("sql", f"{name}.sql").read_bytes()
