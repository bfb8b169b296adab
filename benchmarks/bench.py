"""`make bench`: the floor, DuckDB and Protheon load one sample into the same keyed tables, side by side in one run.

A table and the machine go to stderr, one JSON object to the last line of stdout. BENCH_LINES= and BENCH_ROUNDS= for less;
PROTHEON_BENCH_URL for a PostgreSQL of one's own. What is measured and how: docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import figures, floor, machine, material, product, rival, target
from protheon_dask.errors import ConfigError, InvariantError
from protheon_dask.run import api

BENCH_DIR = Path(__file__).resolve().parent.parent / ".bench"
N_LINES = 400_000
N_ROUNDS = 3
WARM_LINES = 2_000
"""A load before any is measured: workers have imported, connected and compiled what they need."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    n_lines, n_rounds = (number(name, default) for name, default in (("BENCH_LINES", N_LINES), ("BENCH_ROUNDS", N_ROUNDS)))
    say(f"sample of {n_lines:,} lines ..")
    whole, tenth, warm = (material.make_sample(BENCH_DIR, n) for n in (n_lines, max(1, n_lines // 10), WARM_LINES))
    effective = api.read_settings(
        {"home": str(BENCH_DIR / "home"), "broker_port": 0, "scheduler_port": 0, "dashboard_port": 0, "http_port": 0}
    )
    given = os.environ.get("PROTHEON_BENCH_URL")
    database = api.resolve_database(effective, given, embedded=given is None)
    with api.local(effective, database, force_own=True) as cluster:
        described = machine.describe(cluster.url)
        say(json.dumps(described))
        target.remake(cluster.url)
        product.load(cluster, warm.path)
        target.remake(cluster.url)
        rss_mb_10pct = product.load(cluster, tenth.path).rss_mb
        copy_files = material.copy_directory(whole)
        if not copy_files.exists():
            say("binary COPY files ..")
            target.remake(cluster.url)
            product.load(cluster, whole.path)
            material.export_copy_files(cluster.url, copy_files)
        material.read_ahead([whole.path, *copy_files.iterdir()])
        measured = measure(cluster, whole, copy_files, n_rounds, rss_mb_10pct)
    say(figures.table(measured))
    print(json.dumps({**figures.result(measured), "machine": described}))


def measure(
    cluster: api.LocalCluster, sample: material.Sample, copy_files: Path, n_rounds: int, rss_mb_10pct: Sequence[float]
) -> figures.Measured:
    """Every contestant once a round, each on tables made anew; after the first round its rows are compared with Protheon's.

    Raises: InvariantError: rows differ, so that the times would compare different work.
    """
    seconds: dict[str, list[float]] = {"floor": [], "duckdb": [], "duckdb parallel": []}
    rounds: list[figures.ProductRound] = []
    contestants = rivals(cluster.url, sample, copy_files)
    for round_no in range(1, n_rounds + 1):
        target.remake(cluster.url)
        rounds.append(product.load(cluster, sample.path))
        say(f"round {round_no}: protheon {rounds[-1].seconds:.2f} s")
        check_ours(target.counts(cluster.url), sample)
        if round_no == 1:
            target.remember_instances(cluster.url)
            ours = target.fingerprints(cluster.url)
        for name, load in contestants.items():
            target.remake(cluster.url)
            seconds[name].append(load())
            say(f"round {round_no}: {name} {seconds[name][-1]:.2f} s")
            n_more = target.forget_other_instances(cluster.url)
            check_theirs(name, target.counts(cluster.url), sample, n_more)
            if round_no == 1 and (theirs := target.fingerprints(cluster.url)) != ours:
                raise InvariantError(f"{name} loaded other rows than Protheon: {theirs} instead of {ours}")
    return figures.Measured(sample.n_lines, seconds["floor"], seconds["duckdb"], seconds["duckdb parallel"], rounds, rss_mb_10pct)


def rivals(url: str, sample: material.Sample, copy_files: Path) -> dict[str, Callable[[], float]]:
    """The contestants that can be had here, beside Protheon; what is missing is said."""
    found: dict[str, Callable[[], float]] = {}
    psql = floor.find_psql()
    if psql is None:
        say("skipped: the floor, since there is no psql here")
    else:
        found["floor"] = lambda: floor.load(psql, url, copy_files)
    duckdb = rival.install(BENCH_DIR / "duckdb-venv")
    if isinstance(duckdb, str):
        say(f"skipped: DuckDB, since it cannot be installed here: {duckdb}")
    else:
        found["duckdb"] = lambda: duckdb.load(url, sample.path, is_parallel=False)
        found["duckdb parallel"] = lambda: duckdb.load(url, sample.path, is_parallel=True)
    return found


def check_ours(counts: dict[str, int], sample: material.Sample) -> None:
    """Hold Protheon's rows against what the sample was made of."""
    expected = {
        "pgcr.instance": sample.n_lines - sample.n_bad,
        "pgcr.instance_character": sample.n_entries,
        "pgcr.instance_character_weapon": sample.n_weapons,
    }
    if wrong := {name: (counts[name], n) for name, n in expected.items() if counts[name] != n}:
        raise InvariantError(f"Protheon loaded other rows than the sample has: {wrong}")


def check_theirs(name: str, counts: dict[str, int], sample: material.Sample, n_more: int) -> None:
    """The same for a rival, which may have kept some of the broken lines: those were taken out."""
    if n_more > sample.n_bad:
        raise InvariantError(f"{name} loaded {n_more} reports that Protheon has not, and only {sample.n_bad} lines are broken")
    check_ours(counts, sample)


def number(name: str, default: int) -> int:
    raw = os.environ.get(name) or str(default)
    if not raw.isdecimal() or not int(raw):
        raise ConfigError(f"{name}={raw!r} is not a number of at least 1")
    return int(raw)


if __name__ == "__main__":
    main()
