"""From what was measured to the table and the one JSON object. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from protheon_dask.model import STAGES


@dataclass(frozen=True, slots=True)
class ProductRound:
    """One load by Protheon. attempt_s: from the opening of each attempt to its end, added up. rss_mb: peak of each worker process."""

    seconds: float
    stage_seconds: Mapping[str, float]
    attempt_s: float
    rss_mb: Sequence[float]


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each round by contestant; an empty sequence: the contestant could not be had."""

    n_lines: int
    floor_s: Sequence[float]
    duckdb_s: Sequence[float]
    duckdb_parallel_s: Sequence[float]
    protheon: Sequence[ProductRound]
    rss_mb_10pct: Sequence[float]


def result(measured: Measured) -> dict[str, Any]:
    """The object on the last line: medians of the rounds, the largest peak of any worker process; null where there is nothing."""
    floor_s, duckdb_s, parallel_s = (_median(s) for s in (measured.floor_s, measured.duckdb_s, measured.duckdb_parallel_s))
    protheon_s = median(round_.seconds for round_ in measured.protheon)
    ledger_s = sum(round_.stage_seconds["ledger"] for round_ in measured.protheon)
    return {
        "floor_s": _rounded(floor_s),
        "duckdb_s": _rounded(duckdb_s),
        "protheon_s": _rounded(protheon_s),
        "ratio_floor": _rounded(protheon_s / floor_s if floor_s else None),
        "ratio_duckdb": _rounded(duckdb_s / protheon_s if duckdb_s else None),
        "lines_per_s": round(measured.n_lines / protheon_s),
        "rss_mb_max": round(max(mb for round_ in measured.protheon for mb in round_.rss_mb), 1),
        "rss_mb_max_10pct": round(max(measured.rss_mb_10pct), 1),
        "stage_seconds": {s: _rounded(median(r.stage_seconds[s] for r in measured.protheon)) for s in STAGES},
        "ledger_share": round(ledger_s / sum(round_.attempt_s for round_ in measured.protheon), 4),
        "duckdb_parallel_s": _rounded(parallel_s),
        "ratio_duckdb_parallel": _rounded(parallel_s / protheon_s if parallel_s else None),
        "n_lines": measured.n_lines,
        "rounds": len(measured.protheon),
    }


def table(measured: Measured) -> str:
    """The contestants one below the other, each with its rounds, median, lines a second and times the floor."""
    floor_s = _median(measured.floor_s)
    rows = [("", "rounds (s)", "median (s)", "lines/s", "x floor")]
    for name, seconds in (
        ("floor: two psql \\copy", measured.floor_s),
        ("DuckDB, a script", measured.duckdb_s),
        ("DuckDB, five INSERTs at once", measured.duckdb_parallel_s),
        ("Protheon", [round_.seconds for round_ in measured.protheon]),
    ):
        middle_s = _median(seconds)
        if middle_s is None:
            rows.append((name, "not measured", "", "", ""))
            continue
        times = f"{middle_s / floor_s:.2f}" if floor_s else ""
        rows.append((name, " ".join(f"{s:.2f}" for s in seconds), f"{middle_s:.2f}", f"{measured.n_lines / middle_s:,.0f}", times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) if at < 2 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _median(seconds: Sequence[float]) -> float | None:
    return median(seconds) if seconds else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
