"""The DuckDB contestant, run by the Python of its own environment: a sample into the five tables, seconds on stdout.

Usage: PROTHEON_BENCH_TARGET=<libpq URL> python load.py SOURCE [--parallel]. Start-up (import, open, load the extension, attach) is
not in the seconds. One INSERT after the other, as a script has it; with --parallel one connection a table at the same time.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb  # type: ignore[import-not-found,unused-ignore]  # of the rival's own environment, not of this project's

HERE = Path(__file__).parent
EXTENSION = "duckdb_ext/extensions/*/*/postgres_scanner.duckdb_extension"
BIGGEST_FIRST = ("instance_character_weapon", "instance_character", "instance_player", "destiny_player", "instance")


def open_database(url: str) -> duckdb.DuckDBPyConnection:
    """An empty database in memory with PostgreSQL attached as pg."""
    conn = duckdb.connect()
    conn.load_extension(str(next(Path(sysconfig.get_paths()["purelib"]).glob(EXTENSION))))
    conn.execute("SET TimeZone = 'UTC'")
    conn.execute("ATTACH '{}' AS pg (TYPE postgres)".format(url.replace("'", "''")))
    return conn


def load(conn: duckdb.DuckDBPyConnection, source: str, *, is_parallel: bool) -> dict[str, float]:
    """Parse once, then fill the tables; the seconds of each statement, and of all under ``total``."""
    seconds: dict[str, float] = {}
    started_s = time.perf_counter()

    def run(name: str, parameters: Mapping[str, str] | None = None) -> None:
        begun_s = time.perf_counter()
        conn.cursor().execute((HERE / f"{name}.sql").read_text(), parameters)  # a cursor is a connection of its own
        seconds[name] = time.perf_counter() - begun_s

    run("report", {"source": source})
    run("entry")
    inserts = [f"insert_{table}" for table in BIGGEST_FIRST]
    with ThreadPoolExecutor(len(inserts) if is_parallel else 1) as pool:
        list(pool.map(run, inserts))
    seconds["total"] = time.perf_counter() - started_s
    return seconds


def main(arguments: Sequence[str]) -> None:
    source, *options = arguments
    conn = open_database(os.environ["PROTHEON_BENCH_TARGET"])
    print(json.dumps(load(conn, source, is_parallel="--parallel" in options)))


if __name__ == "__main__":
    main(sys.argv[1:])
