"""The campaign must be able to fail: what a fault could do to the database is done to it, and the judge must name it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos import material
from tests.chaos.judge import judge
from tests.chaos.material import Expected
from tests.fixtures.cluster import finish, load, local_cluster
from tests.fixtures.postgres import fresh_database

HERE = Path(__file__).parent
PIPELINE = f"{HERE / 'campaign_pipeline.py'}:campaign"
OUTSIDE = ("material", "oracle", "findings", "judge", "judge_rows", "judge_ledger")
"""Modules that must not share a mistake with the product."""


@dataclass(frozen=True)
class Campaign:
    """Material that was loaded without any fault, while its cluster still runs."""

    url: str
    workspace: Path
    expected: Expected


@pytest.fixture(scope="module")
def campaign(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    directory = tmp_path_factory.mktemp("campaign")
    made = material.make(directory / "sources", seed=5, n_sources=4, n_chunks=5, chunk_lines=120, pad_bytes=20)
    with fresh_database(postgres_url) as url, local_cluster(directory / "home", url) as cluster:
        run_id = load(cluster, PIPELINE, *map(Path, made.paths), chunk_lines=made.chunk_lines)
        assert str(finish(cluster, run_id).state) == "succeeded"
        yield Campaign(url, directory / "home" / "workspace", made)


def test_a_load_without_a_fault_is_judged_clean(campaign: Campaign) -> None:
    verdict = judge(campaign.url, campaign.workspace, campaign.expected, [])
    assert verdict.problems == []
    assert (verdict.lost, verdict.doubled, verdict.wrong, verdict.expired) == (0, 0, 0, 0)
