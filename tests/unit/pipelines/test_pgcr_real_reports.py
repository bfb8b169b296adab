"""Real reports, each column compared with values that were read off the files by eye."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.table import BatchRows
from tests.fixtures.pgcr_reports import BY_HAND, FOLDER, line_of, real_names

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real reports are not here")


def run(*lines: bytes) -> BatchRows:
    batch = pgcr.open(ChunkContext(7, 1, "pgcr.jsonl")).transform(lines, range(1, len(lines) + 1))
    assert (batch.rejected, batch.parts, batch.filtered, batch.blank) == ([], [], [], [])
    return batch


@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_every_column_of_a_real_report(name: str, expected: list[list[tuple[Any, ...]]]) -> None:
    batch = run(line_of(name))
    assert [table.rows for table in batch.tables] == expected
    for table, rows in zip(pgcr.tables, expected, strict=True):
        assert all(len(row) == len(table.columns) for row in rows)


@pytest.mark.parametrize("name", ["solo_flawless", "duo"])
def test_a_real_report_without_its_envelope_gives_the_same_rows(name: str) -> None:
    bare = json.dumps(json.loads(line_of(name))["Response"]).encode()
    assert [table.rows for table in run(bare).tables] == [table.rows for table in run(line_of(name)).tables]


def test_a_player_with_three_characters_is_one_player() -> None:
    batch = run(line_of("pre_beyond_light_fresh"))
    rows = {row[1]: row for row in batch.tables[2].rows}
    assert rows[4611686018463059026] == (6870306963, 4611686018463059026, True, 857 + 3184 + 98)
    assert len(batch.tables[3].rows) == 8
    assert len(batch.tables[1].rows) == 6
    [instance] = batch.tables[0].rows
    assert instance[12] is True  # Scourge of the Past from phase 0, before 2020-11-10: fresh whatever the flag says


def test_all_real_reports_load_in_one_file() -> None:
    names = real_names()
    batch = run(*[line_of(name) for name in names])
    assert len(batch.tables[0].rows) == len(names)
