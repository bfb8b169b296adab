"""The five tables that every contestant fills: made anew for each, counted and compared after each."""

from __future__ import annotations

import psycopg

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.pgcr_tables import TABLES
from protheon_dask.sink.targets import ensure_tables

MARK = "made by benchmarks/bench.py, which drops it"
"""The schema's comment: a schema without it is somebody's own, and is left alone."""

SCHEMA_COMMENT = "SELECT obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = 'pgcr'"

NAMES = tuple(table.name for table in TABLES)
KEYED_BY_INSTANCE = tuple(table.name for table in TABLES if "instance_id" in table.primary_key)


def remake(url: str) -> None:
    """Drop the tables and make them as Protheon makes them, keyed; then checkpoint, so that each contestant begins with as much room.

    Raises: ConfigError: there are such tables that no benchmark has made.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        with conn.transaction():
            found = conn.execute(
                "SELECT obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = 'pgcr'"
            ).fetchone()
            if found is not None and found[0] != MARK:
                raise ConfigError("this database has a schema pgcr that no benchmark has made: name another one in PROTHEON_BENCH_URL")
            conn.execute("DROP SCHEMA IF EXISTS pgcr CASCADE")
            conn.execute("CREATE SCHEMA pgcr")
            conn.execute(f"COMMENT ON SCHEMA pgcr IS '{MARK}'".encode())
            ensure_tables(conn, TABLES)
        conn.execute("CHECKPOINT")


def counts(url: str) -> dict[str, int]:
    """Rows of each table."""
    with psycopg.connect(url) as conn:
        return {name: _one(conn, f"SELECT count(*) FROM {name}") for name in NAMES}


def remember_instances(url: str) -> None:
    """Keep the numbers of the reports that are loaded, for forget_other_instances."""
    with psycopg.connect(url) as conn:
        conn.execute("CREATE TEMPORARY TABLE kept AS SELECT instance_id FROM pgcr.instance")  # fails before anything is dropped
        conn.execute("DROP TABLE IF EXISTS public.protheon_bench_instance")
        conn.execute("CREATE TABLE public.protheon_bench_instance AS SELECT instance_id FROM kept")
        conn.execute("ALTER TABLE public.protheon_bench_instance ADD PRIMARY KEY (instance_id)")


def forget_other_instances(url: str) -> int:
    """Delete the rows of reports that are not among the remembered ones; return how many reports that were."""
    with psycopg.connect(url) as conn:
        for name in KEYED_BY_INSTANCE:
            where = "NOT EXISTS (SELECT FROM public.protheon_bench_instance AS kept WHERE kept.instance_id = t.instance_id)"
            deleted = conn.execute(f"DELETE FROM {name} AS t WHERE {where}".encode()).rowcount
            if name == "pgcr.instance":
                n_reports = deleted
    return n_reports


def fingerprints(url: str) -> dict[str, int]:
    """An order-free sum over every value of the tables that are keyed by instance: equal sums are equal rows."""
    with psycopg.connect(url) as conn:
        return {name: _one(conn, f"SELECT coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {name} AS t") for name in KEYED_BY_INSTANCE}


def _one(conn: psycopg.Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None  # an aggregate always has its row
    return int(row[0])
