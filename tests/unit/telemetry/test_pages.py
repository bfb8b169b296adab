"""The dashboard's panels, drawn from made pictures: what they say, what they bound, and what it costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.model import Model
from bokeh.models.widgets import Div, NumericInput

from protheon_dask import words
from protheon_dask.model import Outcome
from protheon_dask.telemetry import pages
from protheon_dask.telemetry.board import Board
from protheon_dask.telemetry.pages import document, markup, troubles
from protheon_dask.telemetry.pages.chunks import Chunks
from protheon_dask.telemetry.pages.document import SINGLE, single_page, whole_page
from protheon_dask.telemetry.pages.headline import Headline
from protheon_dask.telemetry.pages.panel import Panel
from protheon_dask.telemetry.pages.progress import Progress
from protheon_dask.telemetry.pages.stages import Stages
from protheon_dask.telemetry.pages.throughput import Throughput, coarser
from protheon_dask.telemetry.pages.troubles import Troubles
from protheon_dask.telemetry.pages.view import LONGEST_CHOICE, View
from protheon_dask.telemetry.pages.workers import MOST_SHOWN, Workers
from protheon_dask.telemetry.pages.workspace import Workspace
from protheon_dask.telemetry.picture import ClusterPicture
from protheon_dask.telemetry.series import KEPT
from tests.fixtures import scenes


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Desk:
    """A board, and the clock of who reads it."""

    clock: Clock = field(default_factory=Clock)
    is_there: bool = True

    def __post_init__(self) -> None:
        self.board = Board(self.clock)

    def view(self, run: int | None = None) -> View:
        return View(lambda: self.board if self.is_there else None, self.clock, run)

    def show(self, scene: Callable[[float], ClusterPicture], n: int = 1, first: int = 0) -> None:
        for t in range(first, first + n):
            self.clock.now_s += 1.0
            self.board.take(scene(float(t)))

    @property
    def scheduler(self) -> Any:
        """All that pages ask of Dask's: its plugins."""
        return SimpleNamespace(plugins={"protheon": self.board} if self.is_there else {})


@pytest.fixture
def desk() -> Desk:
    return Desk()


def told(panel: Panel) -> str:
    """All HTML of a panel."""
    return html_of(panel.root)


def html_of(root: Model) -> str:
    return " ".join(str(div.text) for div in root.select({"type": Div}) if isinstance(div, Div))


def drawn(panel: Panel) -> str:
    panel.view.refresh()
    panel.update()
    return told(panel)


def column(panel: Panel, name: str) -> Any:
    data: Mapping[str, Any] = panel.source.data  # type: ignore[assignment]  # a dict, of all that Bokeh allows
    return data[name]


# --- what they say ------------------------------------------------------------------------------------------------------


def test_the_first_lines_say_what_bounds_the_work_and_what_is_missing(desk: Desk) -> None:
    desk.show(scenes.at_work)
    headline = Headline(desk.view(), on_choice=lambda: None)
    assert "bound by COPY on the database; another worker adds 3 %" in drawn(headline)
    assert "nothing: work can flow" in told(headline)
    desk.show(lambda t: scenes.at_work(t, missing=("since 10:02:11 UTC: the scheduler does not answer",)), first=1)
    assert "since 10:02:11 UTC: the scheduler does not answer" in drawn(headline)
    assert "nothing: work can flow" not in told(headline)


def test_without_plugin_picture_or_broker_the_page_says_so_and_what_to_do(desk: Desk) -> None:
    headline, alone = Headline(desk.view(), on_choice=lambda: None), Stages(desk.view(), alone=True)
    desk.is_there = False
    assert "runs without Protheon&#x27;s plugin" in drawn(headline)
    desk.is_there = True
    assert "protheon load FILES" in drawn(headline)
    assert "protheon load FILES" in drawn(alone)
    desk.show(scenes.at_work)
    desk.clock.now_s += 12.0
    assert "Nothing was heard of the broker for 12 s" in drawn(headline)
    assert "Nothing was heard of the broker for 12 s" in drawn(alone)
    desk.show(scenes.at_work, first=1)
    assert "Nothing was heard" not in drawn(alone)


def test_an_empty_cluster_is_told_how_to_begin(desk: Desk) -> None:
    desk.show(scenes.nothing_loaded)
    assert "<code>protheon load FILES</code>" in drawn(Progress(desk.view()))
    assert "protheon worker MASTER:50051" in drawn(Workers(desk.view()))


def test_a_bar_is_solid_where_it_is_committed_and_never_shorter_than_before(desk: Desk) -> None:
    progress = Progress(desk.view())
    desk.show(lambda t: scenes.at_work(t, runs=(scenes.run_of(lines=500, estimated_lines=1_000),)))
    assert "width:50.000%;background:#1a7f4b" in drawn(progress)
    assert "repeating-linear-gradient" in told(progress)  # in flight
    desk.show(lambda t: scenes.at_work(t, runs=(scenes.run_of(lines=600, estimated_lines=9_000),)), first=1)
    assert "<b>50 %</b>" in drawn(progress)


def test_a_run_says_its_pace_what_it_waits_for_and_its_troubles(desk: Desk) -> None:
    desk.show(scenes.at_work, 30)
    html = drawn(Progress(desk.view()))
    for part in ("run 3", "21,000 lines/s", "ETA", "chunks 27 of 800, 4 in flight", "over the limit of 5 %", "512 rejects", "‖ paused"):
        assert part in html, part


def test_chunks_of_every_state_are_seen_among_a_million(desk: Desk) -> None:
    desk.show(scenes.million_chunks)
    chunks = Chunks(desk.view())
    html = drawn(chunks)
    assert "<b>612,345</b>" in html
    assert "<b>3</b>" in html
    widths = [float(part.split("%")[0]) for part in html.split("width:")[1:] if "%" in part.split(";")[0]]
    assert min(widths) > 0.5
    assert sum(widths) == pytest.approx(100, abs=0.1)


def test_a_worker_tells_what_it_does_for_how_long_and_for_which_run(desk: Desk) -> None:
    desk.show(scenes.million_chunks)
    html = drawn(Workers(desk.view()))
    assert "decompress 1.4 s · run 1204" in html
    assert "lost, last heard 41 s ago" in html
    assert "○ idle" in html


def test_of_five_hundred_workers_the_busiest_and_some_lost_are_shown_and_the_others_counted(desk: Desk) -> None:
    desk.show(lambda t: scenes.at_work(t, workers=scenes.workers_of(500, t)))
    workers = Workers(desk.view())
    html = drawn(workers)
    assert html.count('<div class="worker"') == len(column(workers, "worker")) == MOST_SHOWN
    assert "450 more workers: these are the 50 busiest" in html
    assert "lost, last heard" in html
    busy = [one for one in column(workers, "utilization") if one]
    everyone = sorted((one.utilization for one in scenes.workers_of(500, 0.0)), reverse=True)
    assert sorted(busy, reverse=True) == everyone[: len(busy)]


def test_stages_are_shares_of_the_time_with_their_seconds_beside_them(desk: Desk) -> None:
    desk.show(lambda t: scenes.at_work(t, stage_seconds={"copy": 6.0, "wait": 2.0}))
    stages = Stages(desk.view())
    assert "copy 75 %" in drawn(stages)
    assert dict(zip(column(stages, "stage"), column(stages, "words"), strict=True))["waiting"] == "25 % · 2.0 s"


def test_the_workspace_warns_when_it_is_nearly_full_and_names_hosts_that_were_set_aside(desk: Desk) -> None:
    desk.show(scenes.long_names)
    html = drawn(Workspace(desk.view()))
    assert "19.4 GB of 20.0 GB · nearly full" in html
    assert "11 hosts are set aside" in html
    assert "and 3 more" in html


def test_nothing_from_outside_becomes_html(desk: Desk) -> None:
    desk.show(scenes.long_names)
    view = desk.view()
    for panel in (Headline(view, on_choice=lambda: None), *(kind(view) for kind in SINGLE.values())):
        html = drawn(panel)
        assert "<script>" not in html
        assert "\u202e" not in html
    assert "&lt;script&gt;" in drawn(Progress(view))


# --- over time ----------------------------------------------------------------------------------------------------------


def test_a_chart_takes_only_what_is_new_and_keeps_no_more_than_the_series(desk: Desk) -> None:
    throughput = Throughput(desk.view())
    desk.show(scenes.at_work, KEPT)
    drawn(throughput)
    before = column(throughput, "at")
    desk.show(scenes.at_work, 5, first=KEPT)
    drawn(throughput)
    assert list(column(throughput, "at")[:-5]) == list(before[5:])
    assert len(column(throughput, "at")) == KEPT
    assert column(throughput, "lines_per_s")[-1] == scenes.at_work(KEPT + 4.0).flow.lines_per_s


def test_where_nothing_was_heard_the_line_is_broken(desk: Desk) -> None:
    throughput = Throughput(desk.view())
    desk.show(scenes.at_work, 3)
    drawn(throughput)
    desk.show(scenes.at_work, 3, first=60)
    drawn(throughput)
    assert list(np.isnan(column(throughput, "rows_per_s"))) == [False, False, False, True, False, False, False]
    assert list(np.diff(column(throughput, "at")) > 0) == [True] * 6


def test_troubles_are_counted_in_the_piece_of_time_in_which_they_came(desk: Desk) -> None:
    panel = Troubles(desk.view())
    desk.show(scenes.at_work, 100)
    html = drawn(panel)
    assert sum(column(panel, "released")) == 4
    assert sum(column(panel, "failed")) == 2
    assert sum(column(panel, "rejects")) == 72
    assert "given back <b>4</b>" in html
    assert set(np.diff(column(panel, "at"))) == {1e3 * troubles.BIN_S}


def test_totals_that_fall_are_no_troubles(desk: Desk) -> None:
    panel = Troubles(desk.view())
    desk.show(scenes.million_chunks)
    desk.show(scenes.at_work, first=1)  # the ledger was made anew
    drawn(panel)
    assert sum(column(panel, "rejects")) == sum(column(panel, "failed")) == 0


def test_what_is_stacked_is_told_apart_without_colour() -> None:
    hatches = [look.hatch for look in troubles.LOOKS.values()]
    assert len(set(hatches)) == len(hatches)
    assert {str(one) for one in Outcome if one is not Outcome.SUCCEEDED} == {str(cause) for cause in troubles.CAUSES}


# --- one run ------------------------------------------------------------------------------------------------------------


def test_an_ended_run_is_asked_for_and_drawn_from_its_story(desk: Desk) -> None:
    desk.show(lambda t: scenes.at_work(t, runs=()))
    view = desk.view(run=7)
    panels = [Headline(view, on_choice=lambda: None), *(kind(view) for kind in SINGLE.values())]
    assert "Asking the broker for run 7 .." in "".join(map(drawn, panels))
    assert desk.board.wanted() == [7]
    desk.board.take_story(7, scenes.story_of(7))
    html = "".join(map(drawn, panels))
    for part in ("run 7", "! incomplete", "1 chunk is dead", "40 attempts", "16,562", "of run 7", "crashed <b>1</b>", "submitted 2026-"):
        assert part in html, part
    assert len(column(panels[2], "at")) == 30  # of 120: a point has four commits in the mean
    view.choose(None)
    assert "16,562" not in "".join(map(drawn, panels))


def test_a_run_that_is_not_there_is_said_not_to_be(desk: Desk) -> None:
    desk.show(scenes.at_work)
    progress = Progress(desk.view(run=77))
    drawn(progress)
    desk.clock.now_s += 11.0
    assert "the broker has not answered" in drawn(progress)
    desk.board.take_story(77, None)
    assert "There is no run 77: protheon runs list" in drawn(progress)


def test_a_number_beyond_all_runs_that_is_typed_in_is_said_to_be_none_and_not_asked_for(desk: Desk) -> None:
    desk.show(scenes.at_work)
    view = desk.view()
    headline = Headline(view, on_choice=lambda: None)
    typed = headline.root.select_one({"name": "run_number"})
    assert isinstance(typed, NumericInput)
    typed.value = 1e20
    assert view.seen.run == 10**20
    assert "There is no run 100000000000000000000" in drawn(headline)
    assert desk.board.wanted() == []


def test_the_last_piece_of_a_run_that_goes_on_is_not_drawn_before_it_is_full(desk: Desk) -> None:
    desk.board.take_story(9, scenes.story_of(9, ended=False))
    throughput = Throughput(desk.view(run=9))
    drawn(throughput)
    assert len(column(throughput, "at")) == 39  # of 119, three a point


def test_the_story_of_a_run_that_goes_on_says_of_when_it_is(desk: Desk) -> None:
    live, ended = scenes.story_of(9, ended=False), scenes.story_of(7)
    desk.board.take_story(9, live)
    desk.board.take_story(7, ended)
    as_of = words.clock(datetime.fromtimestamp(live.as_of, UTC))
    assert f"told as of {as_of}" in drawn(Headline(desk.view(run=9), on_choice=lambda: None))
    assert "told as of" not in drawn(Headline(desk.view(run=7), on_choice=lambda: None))


def test_a_run_of_few_chunks_has_wide_points_and_loses_no_line_but_a_rest() -> None:
    bins = scenes.story_of().bins
    few, n = coarser(bins, 6)
    assert (len(few), n) == (8, 15)
    assert sum(one.lines for one in few) == sum(one.lines for one in bins)
    many, n = coarser(bins, 100_000)
    assert (list(many), n) == (list(bins), 1)
    assert coarser((), 0) == ([], 1)


def test_the_choice_names_every_run_and_the_one_that_was_asked_for(desk: Desk) -> None:
    desk.show(scenes.long_names)
    choices = dict(desk.view(run=500).choices())  # type: ignore[arg-type]  # pairs, all of them
    assert choices[""] == "now: all runs"
    assert choices["500"] == "run 500"
    assert all(len(words) <= LONGEST_CHOICE + 20 for words in choices.values())
    assert choices["2"].endswith("· incomplete")


# --- the page -----------------------------------------------------------------------------------------------------------


def test_a_panel_that_raises_says_so_once_in_the_log_and_the_page_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Chunks):
        def _draw(self) -> None:
            raise ZeroDivisionError("of a new kind")

    monkeypatch.setattr(document, "SINGLE", {**SINGLE, "chunks": Broken})
    desk.show(scenes.at_work)
    doc = Document()
    with caplog.at_level(logging.ERROR):
        whole_page(desk.scheduler, {}, doc)
        [callback] = doc.session_callbacks
        desk.show(scenes.at_work, first=50)
        callback.callback()
    html = html_of(doc.roots[0])
    assert "could not be drawn (ZeroDivisionError: of a new kind)" in html
    assert "lines 1,800,000 of 40,000,000" in html
    assert [record.message for record in caplog.records] == ["page.panel_failed"]


def test_every_page_opens_without_a_picture_and_without_the_plugin(desk: Desk) -> None:
    desk.is_there = False
    for page in (whole_page, *map(single_page, SINGLE.values())):
        doc = Document()
        page(desk.scheduler, {}, doc)
        assert "without Protheon" in html_of(doc.roots[0])


def test_pages_are_registered_by_names_that_read_well_in_a_list() -> None:
    applications: dict[str, Any] = {}
    pages.register(applications)
    names = [path.strip("/").replace("-", " ").title() for path in applications if path.startswith("/individual-")]
    assert set(applications) == {"/protheon", *(f"/individual-protheon-{name}" for name in SINGLE)}
    assert sorted(names)[0] == "Individual Protheon Chunks"


@pytest.mark.parametrize(
    ("values", "run"), [([b"7"], 7), ([b"abc"], None), ([b"0"], None), ([b"9" * 40], None), ([b"\xff"], None), ([], None)]
)
def test_the_address_names_a_run_or_none(values: list[bytes], run: int | None) -> None:
    doc: Any = SimpleNamespace(session_context=SimpleNamespace(request=SimpleNamespace(arguments={"run": values})))
    assert document._asked_run(doc) == run


def test_a_hatch_is_drawn_in_html_as_in_the_charts() -> None:
    for look in troubles.LOOKS.values():
        assert markup.area(look).endswith(look.light)
    assert "gradient" not in markup.area(troubles.LOOKS[troubles.DEAD])


def test_an_update_of_the_whole_page_takes_less_than_ten_milliseconds(desk: Desk) -> None:
    def five_hundred(t: float) -> ClusterPicture:
        return replace(scenes.million_chunks(t), workers=scenes.workers_of(500, t))

    desk.show(scenes.million_chunks, KEPT)
    doc = Document()
    whole_page(desk.scheduler, {}, doc)
    [callback] = doc.session_callbacks
    spent_s = []
    for no in range(30):
        desk.show(five_hundred, first=KEPT + no)
        began_s = time.thread_time()  # of this thread alone: others have the machine too
        callback.callback()
        spent_s.append(time.thread_time() - began_s)
    assert sorted(spent_s)[len(spent_s) // 10] < 0.010  # of many, one that others' work on the machine's caches did not touch
