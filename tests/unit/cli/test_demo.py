"""The demo's own sums: what was taken over, what would be lost, what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protheon_dask.cli.demo import Story, differences, expected_rows, lost_rows, story_of
from protheon_dask.model import TableCount
from protheon_dask.pipelines.sample import BadLine, SampleReport
from tests.unit.cli.pictures import picture_of

MADE = SampleReport(
    path=Path("demo-1.jsonl.zst"),
    n_lines=100,
    raw_bytes=700_000,
    stored_bytes=70_000,
    n_entries=450,
    n_weapons=1_300,
    bad=(BadLine(7, "broken JSON"),),
)
WHOLE = picture_of(
    lines=100,
    rejected=1,
    rows=tuple(TableCount(table, n, n, 0, 0) for table, n in expected_rows(MADE).items()),
)


def attempt(task_id: int, attempt_no: int, outcome: str | None) -> dict[str, Any]:
    return {"task_id": task_id, "attempt_no": attempt_no, "outcome": outcome, "worker": f"local-{attempt_no}"}


@pytest.mark.parametrize(
    ("attempts", "story"),
    [
        ([attempt(5, 1, "crashed"), attempt(5, 2, "succeeded"), attempt(4, 1, "succeeded")], Story("local-1", 1)),
        ([attempt(5, 1, "expired"), attempt(5, 2, "released"), attempt(5, 3, "succeeded")], Story("local-1", 1)),
        ([attempt(5, 1, "crashed"), attempt(5, 2, None)], Story("local-1", 0)),
        ([attempt(5, 1, "crashed"), attempt(6, 1, "crashed"), attempt(6, 2, "succeeded")], Story("local-1", 0)),
        ([attempt(5, 1, "succeeded")], Story("2", 0)),  # its commit was faster than the kill
    ],
)
def test_a_chunk_is_taken_over_when_another_attempt_has_loaded_it(attempts: list[dict[str, Any]], story: Story) -> None:
    assert story_of("2", [(4, 1), (5, 1)], attempts) == story


def test_nothing_is_lost_when_every_row_of_the_file_was_brought() -> None:
    assert lost_rows(MADE, WHOLE) == 0
    assert differences(MADE, WHOLE) == []


def test_a_missing_row_is_lost_and_a_doubled_one_differs() -> None:
    short = picture_of(lines=100, rejected=1, rows=(*WHOLE.rows[:2], TableCount("pgcr.instance_character_weapon", 1_297, 1_297, 0, 0)))
    assert lost_rows(MADE, short) == 3
    assert differences(MADE, short) == ["pgcr.instance_character_weapon: 1297 instead of 1300"]
    double = picture_of(lines=100, rejected=1, rows=(TableCount("pgcr.instance", 100, 100, 0, 0), *WHOLE.rows[1:]))
    assert lost_rows(MADE, double) == 0
    assert differences(MADE, double) == ["pgcr.instance: 100 instead of 99"]


def test_the_story_is_one_sentence() -> None:
    assert Story("local-1", 1).sentence(0) == "worker local-1 killed: 1 chunk taken over, 0 rows lost"
    assert Story(None, 0).sentence(0) == "no worker was killed: none had a chunk in hand at the moment; 0 rows lost"
