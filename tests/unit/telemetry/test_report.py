"""A run's report: complete in itself, bounded, and as good for a run with nothing to tell as for one that met everything."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from protheon_dask.model import TableCount
from protheon_dask.telemetry.palette import STAGES
from protheon_dask.telemetry.report import MOST_FAULTS, report
from protheon_dask.telemetry.report_charts import Clock, lanes_of, smoothed
from protheon_dask.telemetry.story import MAX_SPANS, RunStory
from tests.unit.telemetry.stories import FAULTY, HOSTILE, LIVE, NOTHING, SKIPPED, span_of, story_of, very_many

VOID = {"meta", "img", "line", "br", "hr", "input", "link"}
BOKEH_BYTES = 1_300_000


@cache
def written(name: str) -> str:
    """The report of a story of tests.unit.telemetry.stories: made once, for drawings take a second."""
    return report({"faulty": FAULTY, "live": LIVE}[name])


def undrawn(story: RunStory) -> Page:
    """The report of a story without its drawings."""
    return Page(report(replace(story, spans=())))


class Page(HTMLParser):
    """The text of a page by section, and what is loaded from elsewhere; a tag that does not match raises."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", html, flags=re.S))  # Bokeh's own is long
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self.open):
            return
        if "h2" in self.open:
            self._section = data
        self.sections[self._section] = self.sections.get(self._section, "") + data

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    @property
    def text(self) -> str:
        return "\n".join(self.sections.values())


def test_a_report_needs_nothing_from_elsewhere() -> None:
    assert Page(written("faulty")).loaded == []
    assert "url(" not in re.sub(r"<script.*?</script>", "", written("faulty"), flags=re.S)


def test_all_that_a_run_met_is_told() -> None:
    page = Page(written("faulty"))
    assert set(page.sections) >= {
        "Attempts", "Rates", "Where the time went", "Retries by cause, and dead letters", "Rejects by reason", "Dead letters", "Accounting",
        "Files", "Settings",
    }  # fmt: skip
    assert "incomplete" in page.sections[""]
    assert "bound by COPY on the database" in page.sections[""]
    assert "40 attempts by 4 workers on 2 hosts" in page.sections["Attempts"]
    for ending in ("failed", "crashed", "lease ran out", "given back", "cancelled"):
        assert ending in page.sections["Attempts"]
    assert all(look.label in page.sections["Where the time went"] for look in STAGES.values())
    assert "value out of range for type integer" in page.sections["Rejects by reason"]
    assert "failed 5 times" in page.sections["Dead letters"]
    assert "✓ 48,750 committed lines = 48,700 loaded + 6 filtered + 40 rejected + 4 blank" in page.sections["Accounting"]
    assert "1,250 lines not committed" in page.sections["Accounting"]
    assert "damaged: cut off" in page.sections["Files"]


def test_hostile_text_is_text() -> None:
    hostile = replace(FAULTY.spans[0], worker=HOSTILE, host=HOSTILE, path=HOSTILE, error_class=HOSTILE, outcome="failed")
    html = report(replace(FAULTY, spans=(hostile, *FAULTY.spans[1:]), settings={HOSTILE: HOSTILE}))
    page = Page(html)
    assert page.tags.count("script") == Page(written("live")).tags.count("script")
    assert "img" not in page.tags
    assert "\x00" not in html
    assert "</script><script>window.hostile=1</script>" in page.text


def test_a_run_that_goes_on_says_of_which_moment_it_is() -> None:
    page = Page(written("live"))
    assert "as of 2026-09-21 14:13:40: it goes on" in page.sections[""]
    assert "ended" not in page.sections[""]


@pytest.mark.parametrize("story", [NOTHING, SKIPPED], ids=["no chunk", "skipped"])
def test_a_run_without_attempts_has_a_report_without_drawings(story: RunStory) -> None:
    html = report(story)
    assert len(html) < 20_000
    assert "It made no attempt" in Page(html).sections["Attempts"]
    assert "✓" in Page(html).sections["Accounting"]


def test_what_was_loaded_before_is_no_work_of_the_run() -> None:
    assert "Nothing was loaded: its files had been loaded before" in Page(report(SKIPPED)).sections[""]
    statistics = replace(FAULTY.statistics, own_lines=10_000)
    page = Page(report(replace(FAULTY, spans=FAULTY.spans[:1], statistics=statistics)))
    assert "They committed 10,000 lines; 38,750 were committed by other runs." in page.sections["Attempts"]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"loaded": 48_701}, "✗ does not add up: 48,750 committed lines"),
        ({"rows": (TableCount("public.t", 10, 5, 3, 1),)}, "✗ does not add up"),
    ],
)
def test_sums_that_do_not_hold_are_said(broken: dict[str, object], told: str) -> None:
    assert "✗" not in undrawn(FAULTY).sections["Accounting"]
    statistics = replace(FAULTY.statistics, **broken)  # type: ignore[arg-type]  # fields of statistics
    assert told in undrawn(replace(FAULTY, statistics=statistics)).sections["Accounting"]


def test_a_million_chunks_on_500_workers_make_a_file_of_a_few_megabytes() -> None:
    story = very_many(MAX_SPANS, 1_000_000, 500)
    html = report(story)
    assert BOKEH_BYTES * 0.9 < len(html.encode()) < 4_000_000
    told = Page(html).sections["Attempts"]
    assert "1,000,000 attempts by 500 workers on 62 hosts" in told
    assert "Drawn are 5,000 of them: those without effect first" in told


def test_very_many_faults_are_listed_in_part() -> None:
    faults = tuple(
        replace(span_of(no), outcome="crashed", error_class="WorkerDied", message="gone " + "long " * 90) for no in range(MAX_SPANS)
    )
    html = report(story_of(FAULTY.statistics, faults))
    assert len(html.encode()) < 5_000_000
    page = Page(html)
    assert f"The first {MOST_FAULTS} of 5,000: protheon attempts 3" in page.sections["Attempts"]
    assert page.sections["Attempts"].count("WorkerDied") == MOST_FAULTS


@pytest.mark.parametrize(
    ("seconds", "unit", "end"), [(0.2, "seconds", 1.0), (120.0, "seconds", 120.0), (600.0, "minutes", 10.0), (18_000.0, "hours", 5.0)]
)
def test_the_axis_of_time_has_a_unit_that_suits_the_run(seconds: float, unit: str, end: float) -> None:
    clock = Clock(story_of(replace(LIVE.statistics, seconds=seconds), ()))
    assert clock.unit == unit
    assert clock.range.end == pytest.approx(end, abs=0.9 if seconds < 1 else 0)


def test_each_worker_has_a_lane_beside_those_of_its_host() -> None:
    workers = (("b", "w1"), ("a", "w9"), ("b", "w0"), ("a", "w9"))
    lanes = lanes_of([replace(span_of(0), host=host, worker=worker) for host, worker in workers])
    assert lanes == {("a", "w9"): 0, ("b", "w0"): 1, ("b", "w1"): 2}


def test_a_rate_is_a_mean_over_its_neighbours() -> None:
    assert smoothed([0, 0, 6, 0, 0], 3) == pytest.approx([0, 2, 2, 2, 0])
    assert smoothed([6, 0, 0], 3) == pytest.approx([3, 2, 0]), "at the ends there are fewer"
    assert smoothed([5.0], 15) == [5.0]
    assert smoothed([], 3) == []
