"""The pages in Dask's dashboard, as a person sees them: real scheduler and browser; made pictures, sent as a broker does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
from distributed import Client

from protheon_dask.ledger.server_process import free_port
from protheon_dask.telemetry.board import TAKE_PICTURE, TAKE_STORY, to_bytes
from protheon_dask.telemetry.picture import ClusterPicture
from protheon_dask.telemetry.story import RunStory
from tests.fixtures import scenes
from tests.fixtures.browser import OpenPage
from tests.fixtures.cluster import wait_until

ROOT: Final = Path(__file__).parents[2]
PANELS: Final = ("progress", "throughput", "chunks", "workers", "stages", "troubles", "workspace")
PERIOD_S: Final = 0.25  # four pictures a second: each speaks of a second later, and charts fill while one looks
HISTORY: Final = 60  # pictures that were sent before a page is opened
LONG_HISTORY: Final = 600
PAUSE_S: Final = 900.0  # between two scenes: all that a chart shows
NARROW, WIDE = 800, 1600

SCENES: Final[dict[str, Callable[[float], ClusterPicture]]] = {
    "at-work": scenes.at_work,
    "empty": scenes.nothing_loaded,
    "million": scenes.million_chunks,
    "long-names": scenes.long_names,
}


@dataclass
class Dashboard:
    """A scheduler of its own, and one who sends it a scene's pictures as the broker does."""

    url: str
    client: Client
    stories: dict[int, RunStory] = field(default_factory=dict)
    _scene: Callable[[float], ClusterPicture] | None = None
    _began_at: float = scenes.BEGIN_AT
    _t: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def play(self, scene: Callable[[float], ClusterPicture] | None, history: int = HISTORY) -> None:
        """Send this scene from now on, with a past; None: nothing."""
        with self._lock:
            self._scene, self._t = scene, 0
            self._began_at += PAUSE_S  # the scene before is out of sight
            for _ in range(history if scene else 0):
                self._send()

    def _send(self) -> None:
        assert self._scene is not None
        self._t, self._began_at = self._t + 1, self._began_at + 1
        picture = replace(self._scene(float(self._t)), at=self._began_at)
        answer = self.ask(TAKE_PICTURE, told=to_bytes(picture))
        for run in answer["wanted"]:
            story = to_bytes(self.stories[run]) if run in self.stories else None
            self.ask(TAKE_STORY, run=run, told=story)

    def ask(self, handler: str, **values: object) -> Any:
        """Call a handler of the scheduler's."""
        client: Any = self.client  # Dask's own types know no handler of another's
        return client.sync(getattr(client.scheduler, handler), **values)

    def run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            with self._lock:
                if self._scene is not None:
                    self._send()

    def stop(self) -> None:
        self._stop.set()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    port, page_port = free_port(), free_port()
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show"]
    command += ["--dashboard-address", f"127.0.0.1:{page_port}", "--preload", str(ROOT / "scheduler" / "preload.py")]
    log = tmp_path_factory.mktemp("scheduler") / "log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            url = f"http://127.0.0.1:{page_port}"
            wait_until(lambda: answers(f"{url}/health"), timeout_s=60)
            with Client(f"tcp://127.0.0.1:{port}", set_as_default=False) as client:  # type: ignore[no-untyped-call]
                made = Dashboard(url, client)
                thread = threading.Thread(target=made.run)
                thread.start()
                try:
                    yield made
                finally:
                    made.stop()
                    thread.join()
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


def panel_of(name: str) -> str:
    return f".protheon-{name}"


def test_every_number_moves_and_a_run_that_has_ended_can_be_chosen(dashboard: Dashboard, open_page: OpenPage, screenshots: Path) -> None:
    dashboard.stories[2] = scenes.story_of(2)
    dashboard.play(scenes.at_work)
    watched = open_page(f"{dashboard.url}/protheon")
    first = watched.wait_words("bound by COPY", "lines loaded so far", "nothing: work can flow", "run 3")
    for panel in PANELS:
        watched.wait_other_words(panel_of(panel))
    assert "Protheon" in watched.page.locator("#myTopnav").inner_text()
    assert first.count("run 2") >= 1

    label = watched.page.locator("select option", has_text="run 2").inner_text()
    watched.page.locator("select").select_option(label=label)
    watched.wait_words("submitted 2026-09-20", "of run 2's chunks", "in the mean", "40 attempts")
    watched.shoot_whole(screenshots / "protheon-ended-run-1600.png")
    watched.page.locator("input").last.fill("77")
    watched.page.locator("input").last.press("Enter")
    watched.wait_words("There is no run 77: protheon runs list shows those that there are.")
    assert watched.errors == []


@pytest.mark.slow
def test_a_page_that_is_opened_for_a_run_shows_it_while_it_goes_on(dashboard: Dashboard, open_page: OpenPage, screenshots: Path) -> None:
    dashboard.stories[9] = scenes.story_of(9, ended=False)
    dashboard.play(scenes.at_work)
    watched = open_page(f"{dashboard.url}/protheon?run=9", NARROW)
    watched.wait_words("of run 9's chunks")
    watched.shoot_whole(screenshots / "protheon-run-that-goes-on-800.png")
    dashboard.stories[9] = scenes.story_of(9, bound="bound by cutting")
    watched.wait_words("bound by cutting")
    assert watched.errors == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(380, 520), (900, 500)])
def test_each_panel_fills_a_page_of_its_own(dashboard: Dashboard, open_page: OpenPage, screenshots: Path, width: int, height: int) -> None:
    with urllib.request.urlopen(f"{dashboard.url}/individual-plots.json", timeout=30) as answer:
        listed = json.load(answer)
    dashboard.play(scenes.million_chunks, LONG_HISTORY)
    for panel in PANELS:
        assert listed[f"Individual Protheon {panel.title()}"] == f"/individual-protheon-{panel}"
        watched = open_page(f"{dashboard.url}/individual-protheon-{panel}", width, height)
        watched.page.wait_for_selector(".head")
        watched.wait_other_words(panel_of(panel))
        watched.page.screenshot(path=str(screenshots / f"panel-{panel}-{width}.png"))
        assert watched.clipped(".figure, .facts span, .state, .tile, .worker, .row > *", ".protheon-panel") == []
        assert watched.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), panel
        assert watched.errors == []


@pytest.mark.slow
def test_what_a_reader_scrolled_to_stays_where_it_is(dashboard: Dashboard, open_page: OpenPage) -> None:
    dashboard.play(scenes.long_names)
    watched = open_page(f"{dashboard.url}/protheon", NARROW, 700)
    watched.page.wait_for_selector(".worker")
    watched.page.evaluate("window.scrollTo(0, 2200)")
    watched.wait_other_words(panel_of("workers"))
    assert watched.page.evaluate("window.scrollY") == 2200


@pytest.mark.slow
def test_a_broker_that_falls_silent_is_told_of(dashboard: Dashboard, open_page: OpenPage) -> None:
    dashboard.play(scenes.at_work)
    watched = open_page(f"{dashboard.url}/protheon")
    watched.wait_words("nothing: work can flow")
    dashboard.play(None)
    watched.wait_words("Nothing was heard of the broker for")
    dashboard.play(scenes.at_work)
    watched.wait_words("nothing: work can flow")
    assert watched.errors == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.slow
def test_nothing_lies_over_another_or_beside_the_page(
    dashboard: Dashboard, open_page: OpenPage, screenshots: Path, scene: str, width: int
) -> None:
    dashboard.play(SCENES[scene], LONG_HISTORY)
    watched = open_page(f"{dashboard.url}/protheon", width)
    watched.page.wait_for_selector(".worker" if scene != "empty" else "code")
    watched.page.wait_for_timeout(1_500)
    watched.shoot_whole(screenshots / f"protheon-{scene}-{width}.png")
    assert watched.overlaps(".protheon-panel, .head, .tile, .worker, .bk-Figure, .bk-input") == []
    assert watched.clipped(".figure, .facts span, .state, .tile, .worker, .row > *, .bk-input", ".protheon-panel") == []
    assert watched.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert watched.page.title() == "Protheon"
    assert watched.errors == []
