"""A trial of COPY: rows go where a pipeline's would, in shape, and nothing of them stays."""

from __future__ import annotations

import time

import pytest
from psycopg import sql

from protheon_dask.errors import ConfigError
from protheon_dask.ledger.connect import opened
from protheon_dask.model import StageClock
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.run.measure import bench_sample, copy_rate
from protheon_dask.sink.loader import ChunkLoader
from protheon_dask.sink.trial import trial_tables
from tests.fixtures.cluster import ask
from tests.fixtures.roles import role_of

RELATIONS = "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'v')"


def test_each_stage_of_the_sample_has_a_rate_and_nothing_of_it_stays(database: str) -> None:
    before = ask(database, RELATIONS)
    found = bench_sample(database, stage_s=0.05)
    assert ask(database, RELATIONS) == before
    assert found.copy_trouble == ""
    assert found.copy_lines_per_s is not None
    assert found.decompress_lines_per_s > found.transform_lines_per_s > found.lines_per_s > 0
    assert found.copy_lines_per_s > found.lines_per_s


def test_trial_tables_have_the_columns_and_the_key_of_the_pipelines_and_their_rows_arrive(database: str) -> None:
    with opened(database, application="test") as conn, trial_tables(conn, pgcr.tables) as targets:
        assert [target.table.primary_key for target in targets] == [table.primary_key for table in pgcr.tables]
        for target, table in zip(targets, pgcr.tables, strict=True):
            assert [column.name for column in target.columns] == [
                *(column.name for column in table.columns),
                *(["_protheon_chunk"] if table.provenance else []),
            ]
        persistence = conn.execute("SELECT DISTINCT relpersistence FROM pg_class WHERE oid = ANY(%s)", ([t.oid for t in targets],))
        assert persistence.fetchall() == [("t",)]


def test_rows_of_a_trial_are_really_copied_and_the_next_trial_begins_empty(database: str) -> None:
    lines = list(sample_lines(50))
    made = pgcr.open(ChunkContext(0, 0, "")).transform(lines, range(1, 51))
    with opened(database, application="test") as conn:
        for _ in range(2):
            with trial_tables(conn, pgcr.tables, values_are_exact=True) as targets:
                loader = ChunkLoader(conn, targets, task_id=0, check_fence=lambda: None, clock=StageClock(), now=time.perf_counter)
                assert loader.load(made) == []
                counts = loader.finish()
                for target, count, given in zip(targets, counts, made.tables, strict=True):
                    there = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(target.identifier)).fetchone()
                    assert there == (count.inserted,)
                    assert len(given.rows) >= count.inserted > 0
    assert copy_rate(pgcr, [made], 50, database, stage_s=0.0001) > 0


def test_a_role_that_may_not_make_temporary_tables_is_told_so_and_the_rest_is_measured(database: str) -> None:
    with role_of(database) as role:
        role.grant("REVOKE TEMP ON DATABASE {1} FROM public")
        with pytest.raises(ConfigError, match="temporary"):
            copy_rate(pgcr, [], 1, role.url, 0.01)
        found = bench_sample(role.url, stage_s=0.01)
    assert found.copy_lines_per_s is None
    assert "42501" in found.copy_trouble
    assert found.transform_lines_per_s > 0
