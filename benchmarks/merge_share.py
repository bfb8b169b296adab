"""What the merge of the shared table takes of a chunk's time, with 1, 2, 4 and 8 loaders that meet on the same players.

`make bench-merge`: for each number of loaders a cluster of so many worker processes loads the pgcr sample, in chunks of one size, into
tables made anew; then once more into the full ones, where every player is known. A table goes to stderr, one JSON object to the last
line of stdout. BENCH_LINES= for less; PROTHEON_BENCH_URL for a PostgreSQL of one's own. The seconds are those of the attempts in the
ledger: of a chunk's wall time, waiting for the locks of other loaders and for a core included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import machine, material, product, target
from benchmarks.bench import BENCH_DIR, WARM_LINES, number, say
from benchmarks.figures import ProductRound
from protheon_dask.run import api

LOADERS: Final = (1, 2, 4, 8)
N_LINES: Final = 100_000
CHUNK_LINES: Final = 5_000
"""Chunks of one size whatever the number of loaders: 20 of N_LINES, so that 8 loaders have two rounds of them at least."""


@dataclass(frozen=True, slots=True)
class Share:
    """One load: of attempt_s seconds of all chunks merge_s were the merge's. tables: empty or full of the same rows."""

    n_loaders: int
    tables: str
    n_chunks: int
    seconds: float
    attempt_s: float
    merge_s: float

    @property
    def share(self) -> float:
        return self.merge_s / self.attempt_s


def main() -> None:
    n_lines = number("BENCH_LINES", N_LINES)
    say(f"sample of {n_lines:,} lines ..")
    sample, warm = (material.make_sample(BENCH_DIR, n) for n in (n_lines, WARM_LINES))
    effective = api.read_settings(
        {"home": str(BENCH_DIR / "home"), "broker_port": 0, "scheduler_port": 0, "dashboard_port": 0, "http_port": 0}
    )
    given = os.environ.get("PROTHEON_BENCH_URL")
    shares: list[Share] = []
    for n_loaders in LOADERS:
        database = api.resolve_database(effective, given, embedded=given is None)
        with api.local(effective, database, workers=n_loaders, force_own=True) as cluster:
            described = machine.describe(cluster.url)
            target.remake(cluster.url)
            product.load(cluster, warm.path)
            material.read_ahead([sample.path])
            target.remake(cluster.url)
            for tables in ("empty", "full"):
                shares.append(share_of(n_loaders, tables, sample.n_lines, product.load(cluster, sample.path, CHUNK_LINES)))
                say(line_of(shares[-1]))
    say(json.dumps(described))
    say(table(shares))
    print(json.dumps({"merge_share": [as_json(share) for share in shares], "n_lines": n_lines, "machine": described}))


def share_of(n_loaders: int, tables: str, n_lines: int, measured: ProductRound) -> Share:
    return Share(n_loaders, tables, -(-n_lines // CHUNK_LINES), measured.seconds, measured.attempt_s, measured.stage_seconds["merge"])


def as_json(share: Share) -> dict[str, object]:
    return {
        "loaders": share.n_loaders,
        "tables": share.tables,
        "chunks": share.n_chunks,
        "seconds": round(share.seconds, 2),
        "attempt_seconds": round(share.attempt_s, 2),
        "merge_seconds": round(share.merge_s, 2),
        "share": round(share.share, 3),
    }


def line_of(share: Share) -> str:
    per_chunk_s, merge_s = share.attempt_s / share.n_chunks, share.merge_s / share.n_chunks
    return f"| {share.n_loaders} | {share.tables} | {share.seconds:.1f} | {per_chunk_s:.2f} | {merge_s:.2f} | {100 * share.share:.0f} % |"


def table(shares: Sequence[Share]) -> str:
    """The table of docs/benchmarks.md."""
    head = "| loaders | tables | run (s) | a chunk (s) | its merge (s) | share |\n|---:|---|---:|---:|---:|---:|"
    return "\n".join([head, *map(line_of, shares)])


if __name__ == "__main__":
    main()
