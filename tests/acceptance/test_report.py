"""``protheon runs report``: the story of real runs as a file, and what a browser makes of it with no network."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import protheon_dask as protheon
from protheon_dask.cli.main import main
from protheon_dask.errors import ConfigError
from protheon_dask.model import RunState
from protheon_dask.telemetry import palette
from protheon_dask.telemetry.report import report
from protheon_dask.telemetry.story import RunStory
from tests.acceptance.conftest import Gate, Type, World, write_numbers, write_pipeline
from tests.fixtures.browser import OpenPage, Watched
from tests.unit.telemetry.stories import FAULTY, HOSTILE, very_many
from tests.unit.telemetry.test_report import Page

SETTINGS = {"chunk_lines": 100, "dead_at_failures": 2}
FAULTS = f"""if n == 450:
    raise MemoryError({HOSTILE!r})
if n % 100 == 7:
    raise protheon.Reject("no sevens")
if n % 100 == 8:
    return protheon.FILTERED"""
IDLE = "window.Bokeh && Bokeh.documents.length && Bokeh.documents.every((its) => its.is_idle)"
FITS = f"{IDLE} && document.documentElement.scrollWidth <= innerWidth"
PLACE = """([second, lane]) => {
    const view = Bokeh.index.get_one(Bokeh.documents[0].roots()[0]);
    const box = view.canvas_view.el.getBoundingClientRect();
    return [box.x + view.frame.x_scale.compute(second), box.y + view.frame.y_scale.compute(lane)];
}"""


@dataclass
class Asked:
    """A file that `runs report` has written."""

    page: Page
    path: Path


@pytest.fixture
def report_of(type_: Type, tmp_path: Path) -> Any:
    """Asks for the report of a run in a file of its own."""

    def report_of(*arguments: object) -> Asked:
        path = tmp_path / f"report-{len(list(tmp_path.glob('report-*')))}.html"
        typed = type_("runs", "report", *arguments, "--output", path)
        assert (typed.code, typed.out) == (0, ""), typed.err
        assert typed.err.strip().endswith(f"its report is in {path}")
        return Asked(Page(path.read_text()), path)

    return report_of


@pytest.fixture(scope="module")
def faulty(module_world: World, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A run with rejects, filtered lines and a chunk that died."""
    directory = tmp_path_factory.mktemp("faulty")
    world = World(module_world.cluster, module_world.url, directory)
    statistics = world.load(write_pipeline(directory, "faulty", FAULTS), write_numbers(directory / "many.txt", 1_000))
    assert statistics.state is RunState.INCOMPLETE
    return statistics.run


def test_the_report_of_a_run_with_faults_tells_all_of_them(report_of: Any, faulty: int, world: World) -> None:
    page: Page = report_of(faulty).page
    assert "incomplete" in page.sections[""]
    assert "11 attempts by 2 workers on 1 host" in page.sections["Attempts"]
    assert page.sections["Attempts"].count("MemoryError") == 2
    assert "9no sevens" in page.sections["Rejects by reason"]
    assert "failed 2 times" in page.sections["Dead letters"]
    assert "✓ 900 committed lines = 882 loaded + 9 filtered + 9 rejected + 0 blank" in page.sections["Accounting"]
    assert "100 lines not committed (chunks: 1 dead)" in page.sections["Accounting"]
    assert "public.faulty882=88200✓" in page.sections["Accounting"]
    assert "9 of 10" in page.sections["Files"]
    assert "lines a chunk" in page.sections["Settings"]


@pytest.mark.slow
def test_a_replay_a_skipped_file_and_an_empty_one_have_sensible_reports(report_of: Any, faulty: int, world: World, type_: Type) -> None:
    mended = write_pipeline(world.directory, "faulty")
    typed = type_("rejects", "replay", faulty, "--pipeline", mended, "--json")
    replayed: Page = report_of(typed.json["run"]).page
    assert f"rejects of run {faulty}" in replayed.sections["Files"]
    assert "9 committed lines = 9 loaded" in replayed.sections["Accounting"]
    assert "None of them is still refused." in report_of(faulty).page.sections["Rejects by reason"]

    pipeline, file = write_pipeline(world.directory, "twice"), write_numbers(world.directory / "few.txt", 10)
    world.load(pipeline, file)
    skipped: Page = report_of(world.load(pipeline, file).run).page
    assert "Nothing was loaded: its files had been loaded before" in skipped.sections[""]
    assert "It made no attempt" in skipped.sections["Attempts"]

    (world.directory / "empty.txt").touch()
    empty: Page = report_of(world.load(pipeline, world.directory / "empty.txt").run).page
    assert "succeeded" in empty.sections[""]
    assert "0 committed lines" in empty.sections["Accounting"]


def test_a_run_that_goes_on_is_told_until_now_and_a_cancelled_one_with_what_it_left(report_of: Any, world: World, gate: Gate) -> None:
    pipeline = write_pipeline(world.directory, "live", gate.body(3, 100))
    run_id = world.submit(pipeline, write_numbers(world.directory / "live.txt", 1_000)).run_id
    world.wait_chunks_done(run_id, 3)
    live: Page = report_of(run_id).page
    assert "it goes on" in live.sections[""]
    assert "700 lines not committed" in live.sections["Accounting"]
    world.cluster.client.cancel(run_id)
    gate.open()
    assert "cancelled" in report_of(run_id).page.sections[""]


def test_a_report_overwrites_nothing_unless_it_is_told_to(
    type_: Type, faulty: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert type_("runs", "report", faulty).code == 0
    path = tmp_path / f"run-{faulty}.html"
    assert "<!DOCTYPE html>" in path.read_text()
    path.write_text("mine")
    refused = type_("runs", "report", faulty)
    assert (refused.code, path.read_text()) == (2, "mine")
    assert f"run-{faulty}.html is there already" in refused.err
    assert "--force" in refused.err
    assert type_("runs", "report", faulty, "--force").code == 0
    assert path.read_text() != "mine"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("target", "told"), [(".", "is a directory"), ("none/x.html", "there is no directory none"), ("/dev/null", "is no ordinary file")]
)
def test_a_place_that_cannot_hold_a_report_is_refused(
    type_: Type, faulty: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = type_("runs", "report", faulty, "--output", target, "--force")
    assert refused.code == 2
    assert told in refused.err


def test_a_report_goes_to_stdout_and_the_story_itself_as_json(type_: Type, faulty: int) -> None:
    printed = type_("runs", "report", faulty, "--output", "-")
    assert (printed.code, printed.err) == (0, "")
    assert printed.out.startswith("<!DOCTYPE html>")
    assert printed.out.endswith("</html>\n")
    story = RunStory.from_json(type_("runs", "report", faulty, "--json").json)
    assert (story.statistics.run, story.n_attempts) == (faulty, 11)
    assert type_("runs", "report", faulty, "--json", "--force").code == 2
    missing = type_("runs", "report", 77_777)
    assert missing.code == 2
    assert "there is no run 77777" in missing.err


@pytest.mark.parametrize("knows_database", [True, False])
def test_a_run_in_a_notebook_writes_its_report(
    faulty: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_database: bool
) -> None:
    monkeypatch.setenv("PROTHEON_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("PROTHEON_HOME", str(world.cluster._home))
    with protheon.connect(world.cluster.client.address, into=world.url if knows_database else None) as cluster:
        run = cluster.run(faulty)
        assert cluster.has_database == knows_database
        assert run.report(tmp_path / "it.html") == tmp_path / "it.html"
        assert "MemoryError" in (tmp_path / "it.html").read_text()
        with pytest.raises(ConfigError, match="is there already: name another file, or overwrite it"):
            run.report(tmp_path / "it.html")
        run.report(tmp_path / "it.html", overwrite=True)
        assert run.story().n_attempts == 11


def test_a_report_needs_no_master(faulty: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTHEON_HOME", str(tmp_path / "another-home"))
    assert main(["runs", "report", str(faulty), "--into", world.url, "--output", str(tmp_path / "alone.html")]) == 0
    assert "MemoryError" in (tmp_path / "alone.html").read_text()


# --- in a browser -----------------------------------------------------------------------------------------------------------


def opened(open_page: OpenPage, path: Path, width: int) -> Watched:
    """The file, drawn, where nothing else can be reached."""
    watched = open_page(path.as_uri(), width, offline=True)
    watched.page.wait_for_function(IDLE)
    return watched


def colors_of(shot: bytes) -> set[str]:
    with Image.open(io.BytesIO(shot)) as picture:
        pixels = picture.convert("RGB").tobytes()
    return {f"#{pixels[at : at + 3].hex()}" for at in range(0, len(pixels), 3)}


def written(directory: Path, story: RunStory) -> Path:
    path = directory / "story.html"
    path.write_text(report(story))
    return path


def test_a_browser_shows_every_drawing_and_nothing_is_clipped(report_of: Any, faulty: int, open_page: OpenPage, screenshots: Path) -> None:
    watched = opened(open_page, report_of(faulty).path, 1600)
    page = watched.page
    for width in (1600, 900):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function(FITS)
        page.screenshot(path=screenshots / f"report-{width}.png", full_page=True)
        charts = page.locator(".chart")
        assert charts.count() == 6
        assert watched.overlaps("section, .figures, footer") == []
        assert watched.overlaps(".legend > span, h1, h2, dt, dd") == []
        assert watched.clipped(".legend > span, table, p, .figures div", "main") == []
        assert palette.OUTCOMES["failed"].light in colors_of(charts.nth(0).screenshot())
        assert palette.FLOWS["lines_per_s"].light in colors_of(charts.nth(1).screenshot())
    assert watched.errors == []


@pytest.mark.slow
def test_the_pointer_is_told_of_an_attempt_and_on_paper_drawings_are_as_wide_as_the_sheet(open_page: OpenPage, tmp_path: Path) -> None:
    watched = opened(open_page, written(tmp_path, FAULTY), 1600)
    page = watched.page
    page.mouse.move(*page.evaluate(PLACE, [7.0, 1]))
    tooltip = page.locator(".bk-Tooltip")
    tooltip.get_by_text("MemoryError").wait_for()
    assert tooltip.get_by_text("no room for it </script><script>window.hostile=1</script><img src=x").count() >= 1
    assert tooltip.get_by_text("desk-under-the-window-3 on desk-under-the-window").count() >= 1

    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.set_viewport_size({"width": 1000, "height": 1000})
    assert page.locator(".chart > canvas.picture").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert palette.OUTCOMES["failed"].light in colors_of(page.locator(".chart").nth(0).screenshot())
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("canvas.picture").count() == 0
    assert page.evaluate("window.hostile") is None
    assert watched.errors == []


@pytest.mark.slow
def test_500_workers_and_long_names_fit_on_a_page(open_page: OpenPage, tmp_path: Path, screenshots: Path) -> None:
    watched = opened(open_page, written(tmp_path, very_many(5_000, 1_000_000, 500)), 1600)
    for width in (1600, 900):
        watched.page.set_viewport_size({"width": width, "height": 1000})
        watched.page.wait_for_function(FITS)
        watched.page.screenshot(path=screenshots / f"report-very-many-{width}.png", full_page=True)
        assert watched.clipped(".legend > span, p, .figures div", "main") == []
        assert palette.STAGES["copy"].light in colors_of(watched.page.locator(".chart").nth(0).screenshot())
    assert watched.errors == []
