"""The task that benchmarks/seeds_table.py submits: workers import it by its name."""

from __future__ import annotations

from typing import Any

import protheon_dask as protheon

TABLE = "public.seed_rows"


@protheon.task
def keep_square(payload: dict[str, int], context: Any) -> dict[str, int]:
    """A row of its own for each task, in the transaction that ends it: one that ran twice, or not at all, shows."""
    square = payload["n"] ** 2
    context.connection.execute(f"INSERT INTO {TABLE} (n, square) VALUES (%s, %s)", (payload["n"], square))
    return {"square": square}
