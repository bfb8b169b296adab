"""The pages over a real load: every panel moves, and the run is drawn again after every process was started anew."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from protheon_dask.model import RunState
from tests.acceptance.conftest import Gate, World, write_numbers, write_pipeline
from tests.fixtures.browser import OpenPage
from tests.fixtures.cluster import local_cluster
from tests.fixtures.postgres import fresh_database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LINES, CHUNK_LINES = 100_000, 1_000
SLOWLY: Final = """if n % 100 == 7:
    raise protheon.Reject('seven of a hundred')
if n % 20 == 0 and not os.path.exists({gate!r}):
    time.sleep(0.03)"""
PANELS: Final = ("progress", "throughput", "chunks", "workers", "stages", "troubles", "workspace")


def page_of(world: World, run: int | None = None) -> str:
    page = world.cluster.dashboard_link.removesuffix("/status") + "/protheon"
    return page if run is None else f"{page}?run={run}"


def test_a_real_load_moves_every_panel_and_is_drawn_again_after_every_process_was_restarted(
    postgres_url: str, tmp_path: Path, gate: Gate, open_page: OpenPage, screenshots: Path
) -> None:
    with fresh_database(postgres_url) as url:
        with local_cluster(tmp_path / "home", url) as cluster:
            world = World(cluster, url, tmp_path)
            watched = open_page(page_of(world))
            watched.wait_words("Nothing was loaded yet", "nothing: work can flow")
            pipeline = write_pipeline(tmp_path, "slowly", SLOWLY.format(gate=str(gate.path)))
            run = world.submit(pipeline, write_numbers(tmp_path / "numbers.txt", LINES), chunk_lines=CHUNK_LINES).run_id
            watched.wait_words(f"run {run}", "▶ running", f"· run {run}")
            for panel in PANELS:
                watched.wait_other_words(f".protheon-{panel}")
            watched.shoot_whole(screenshots / "protheon-real-load-1600.png")
            gate.open()
            assert world.finish(run).state is RunState.SUCCEEDED
            watched.wait_words("✓ succeeded", "lines 100,000 of 100,000", "1,000 rejects")
            assert watched.errors == []
            watched.page.close()
        with local_cluster(tmp_path / "home", url) as cluster:
            world = World(cluster, url, tmp_path)
            watched = open_page(page_of(world, run))
            watched.wait_words(f"of run {run}'s chunks", "✓ succeeded", "lines 100,000 of 100,000", "worked on it", "in the mean")
            watched.shoot_whole(screenshots / "protheon-real-load-after-restart-1600.png")
            assert watched.errors == []
