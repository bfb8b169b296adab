"""The card of a run, in HTML and in text: what it says in each state, and that nothing foreign gets out of its place."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter

from protheon_dask.model import RunState, TableCount
from protheon_dask.run.cluster import Cluster
from protheon_dask.run.handle import Run
from protheon_dask.run.verify import TableCheck, Verdict, Verification
from protheon_dask.telemetry.card import (
    NOTICES,
    ClusterFacts,
    cluster_html,
    cluster_text,
    run_html,
    run_text,
    runs_html,
    runs_text,
    shown_fraction,
    told_html,
    verification_html,
    verification_text,
    ways_on,
)
from protheon_dask.telemetry.markup import link
from protheon_dask.telemetry.pace import Rates
from protheon_dask.telemetry.palette import RUN_STATES
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.cards import LINK, NO_JSON, RATES, STATES, scene
from tests.unit.cli.pictures import picture_of

VOID: Final = ("br", "img", "meta", "hr", "input", "link")
ELEMENTS: Final = {*("style", "div", "span", "bdi", "a", "b", "ul", "li", "code"), *("table", "thead", "tbody", "tr", "th", "td")}
EVIL: Final = '"><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31m \u202egnp.txt \udc80 &amp; \'"'


class Page(HTMLParser):
    """What a browser makes of it: elements with their attributes, the text that is seen, and that all that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def width(self, css: str) -> float:
        """Of the part of the bar, in per cent."""
        [style] = [attrs["style"] for _, attrs in self.elements if attrs.get("class") == css]
        found = re.fullmatch(r"width:([0-9.]+)%", style or "")
        assert found
        return float(found[1])


def page(s: RunStatistics, rates: Rates = RATES, **more: Any) -> Page:
    return Page(run_html(s, rates, LINK, **more))


@pytest.mark.parametrize("name", STATES)
def test_a_card_is_well_formed_and_loads_nothing_from_elsewhere(name: str) -> None:
    drawn = run_html(scene(name), RATES, LINK)
    seen = Page(drawn)
    assert {tag for tag, _ in seen.elements} <= ELEMENTS
    assert not [attrs for _, attrs in seen.elements for attr in attrs if attr.startswith("on")]
    assert "url(" not in drawn
    assert "@import" not in drawn
    assert [attrs["href"] for tag, attrs in seen.elements if tag == "a"] == [LINK]


@pytest.mark.parametrize("name", STATES)
def test_text_and_html_say_the_same_and_which_state_the_run_is_in(name: str) -> None:
    s = scene(name)
    look = RUN_STATES[s.state]
    in_html, in_text = page(s).text, run_text(s, RATES)
    assert f"{look.symbol} {look.label}" in in_html
    assert in_text.splitlines()[0].endswith(f": {s.state}")
    for said in in_text.splitlines()[2:]:
        for part in said.split("  ·  "):
            assert all(word.rstrip(",:") in in_html for word in part.split()), part


@pytest.mark.parametrize("name", STATES)
def test_a_text_fits_a_console(name: str) -> None:
    lines = run_text(scene(name), RATES, width=60).splitlines()
    assert max(len(line) for line in lines[:2]) <= 60
    assert all(line for line in lines)


def test_a_running_card_tells_counts_rates_time_left_and_troubles() -> None:
    said = page(picture_of(rejected=2, retries=1)).text
    for part in ("run 3", "pgcr", "reports.jsonl.zst", "43 %", "chunks 7 of 16, 2 in flight", "lines 8,750 of 20,000"):
        assert part in said
    for part in ("2,150 lines/s", "14.2 MB/s", "11,000 rows/s", "ETA 42 s", "2 rejects", "1 retry"):
        assert part in said
    assert "run.rejects()" not in said, "what is refused is looked at when the run has come to rest"


def test_committed_is_solid_in_flight_light_and_both_fit() -> None:
    seen = page(scene("running"))
    assert seen.width("p-committed") == pytest.approx(43.75)
    assert seen.width("p-in-flight") == pytest.approx(12.5)
    [bar] = [attrs for _, attrs in seen.elements if attrs.get("role") == "progressbar"]
    assert (bar["aria-valuenow"], bar["aria-label"]) == ("43", "committed lines of run 3")
    assert page(scene("waiting")).width("p-in-flight") == 0
    assert page(scene("no estimate")).width("p-in-flight") > 0, "what is in flight is seen before anything is known"


def test_nothing_to_tell_about_speed_is_not_told() -> None:
    said = page(scene("no estimate"), Rates()).text
    assert "lines/s" not in said
    assert "ETA" not in said
    assert "chunks 0 of ~16, 2 in flight" in said


def test_what_is_waited_for_is_told_and_an_outage_with_since_when() -> None:
    assert "waiting for the sources to be identified" in page(scene("queued")).text
    assert "waiting for a worker to take a chunk" in page(scene("waiting")).text
    told = "since 10:02:11 UTC: PostgreSQL at db.example:5432 does not answer"
    assert told in page(scene("outage")).text
    assert told in run_text(scene("outage"), RATES)


def test_failures_are_told_in_plain_words_with_what_to_do() -> None:
    said = page(scene("incomplete")).text
    for part in (
        "2,640 x column 'price' (integer) cannot take 'a'; first at line 2 of orders.jsonl",
        "2 x for other reasons",
        "2 chunks failed 5 times: MemoryError: no room for it",
        "see what was refused: run.rejects()",
        "with a pipeline that takes them: run.replay_rejects(pipeline=..)",
        "see why, line by line: run.debug(run.rejects().iloc[0])",
        "see what failed: run.dead_letters()",
        "see where: run.debug(run.dead_letters().iloc[0])",
        "with mended code: cluster.load(.., pipeline=..)",
        "once a cause outside of the code is mended: run.replay_dead_letters()",
    ):
        assert part in said
    assert "protheon " not in said, "a notebook needs no terminal"


def test_a_run_of_refused_lines_is_mended_by_a_replay() -> None:
    said = run_text(replace(scene("incomplete"), paths=("rejects of run 2",)), RATES)
    assert "with mended code: cluster.run(2).replay_rejects(pipeline=..)" in said


def test_a_file_of_another_kind_is_called_one() -> None:
    s = replace(scene("incomplete"), refusals=(NO_JSON,), rejected=9_000, lines=9_000)
    assert "most lines are no JSON: convert it first" in page(s).text


def test_each_way_on_is_told_where_it_is_open() -> None:
    over = picture_of(state=RunState.INCOMPLETE, reason="over the reject limit of 50 %: 9 of 10", rejected=9)
    skipped = picture_of(
        state=RunState.SUCCEEDED, rejected=0, skipped_files=1,
        notices=("/a: loaded already by run 1: skipped", "/a: 2 lines are refused: protheon rejects replay 1 --pipeline PIPELINE"),
    )  # fmt: skip
    calls = {
        "run.resume(reject_limit=..)": scene("paused"),
        "run.resume()": picture_of(state=RunState.PAUSED, reason="by hand"),
        "cluster.load(.., reject_limit=..)": over,
        "run.files()": picture_of(state=RunState.INCOMPLETE, reason="a.zst changed while it was read", rejected=0),
        "run.dead_letters(everything=True)": replace(scene("incomplete"), dead_letters=0),
        "cluster.run(1).replay_rejects(pipeline=..)": skipped,
    }
    for call, s in calls.items():
        assert f"<code>{call}</code>" in run_html(s, RATES)
        assert f": {call}" in run_text(s, RATES)
    assert "nothing was loaded: it was loaded by run 1, with these numbers" in page(skipped).text
    assert "protheon rejects" not in page(skipped).text
    assert page(skipped).text.count("replay_rejects") == 1, "said by the way on, and not by a note once more"
    assert page(replace(skipped, rejected=2)).text.count("replay_rejects") == 1
    assert "again=True loads once more" in page(skipped).text


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("1 chunk is dead: protheon dlq list 4", "1 chunk is dead: run.dead_letters()"),
        ("2 dead chunks were purged: protheon dlq list 4 --all; 1 chunk is dead", "purged: run.dead_letters(everything=True); 1 chunk"),
        ("60 % of 10,000 lines; see why: protheon rejects show 4", "see why: run.rejects()"),
        ("its version '1' has not: a new version loads it anew, and so does --again", "and so does again=True"),
        ("interrupted: its command ended; type the same again to go on", "loading the same again goes on with it: run that cell once more"),
        ("run 41 is paused: what is ready waits until it goes on: protheon runs resume 41", "goes on: cluster.run(41).resume()"),
    ],
)
@pytest.mark.parametrize("state", [RunState.INCOMPLETE, RunState.PAUSED, RunState.RUNNING], ids=str)
def test_what_a_terminal_would_type_is_a_call_on_a_card(told: str, call: str, state: RunState) -> None:
    for s in (picture_of(run=4, state=state, reason=told), picture_of(run=4, state=state, notices=(told,))):
        for said in (page(s).text, run_text(s, RATES)):
            assert call in said
            assert "protheon " not in said


def test_a_picture_at_the_end_of_a_cell_is_a_row_and_not_forty_fields() -> None:
    s = scene("paused")
    shown, _ = DisplayFormatter().format(s)  # type: ignore[no-untyped-call]
    assert shown["text/plain"] == runs_text([s])
    assert shown["text/html"] == runs_html([s])


def test_what_a_replay_took_of_the_refused_lines_is_told() -> None:
    s = replace(scene("incomplete"), rejected=69, replayed=34, replayed_by=(14,))
    for said in (page(s).text, run_text(s, RATES)):
        assert "34 of the rejected are refused no more: replayed by run 14" in said
    assert "run.rejects()" not in page(replace(s, rejected_parts=0, replayed=69)).text


def test_a_picture_is_short_at_a_prompt() -> None:
    s = scene("incomplete")
    assert repr(s) == f"<{runs_text([s])}>"
    assert "\n" not in repr(s)


def test_an_ended_card_tells_rows_by_table_lines_and_speed() -> None:
    said = page(scene("succeeded")).text
    for part in ("pgcr.destiny_player 30,000 1,000 8,000", "pgcr.instance 8,747 0 0", "20,000 lines: 8,747 loaded", "100 %"):
        assert part in said
    assert "ETA" not in said


def test_the_live_bar_never_runs_backwards_and_the_end_tells_the_truth() -> None:
    running = picture_of(lines=5_000, estimated_lines=20_000)
    assert shown_fraction(running, 0.4) == 0.4
    assert page(running, least_fraction=0.4).width("p-committed") == 40.0
    assert "40 %" in run_text(running, RATES, least_fraction=0.4)
    assert shown_fraction(replace(running, state=RunState.CANCELLED), 0.4) == 0.25
    assert shown_fraction(picture_of(lines=20_001, split_done=False)) == 0.99, "what is not yet cut is not yet loaded"
    assert shown_fraction(picture_of(lines=20_000)) == 1.0


@pytest.mark.parametrize("name", STATES)
def test_hostile_names_and_messages_stay_text(name: str) -> None:
    s = replace(
        scene(name),
        pipeline=EVIL,
        paths=(f"/data/{EVIL}", "/b"),
        reason=EVIL,
        notices=(EVIL,),
        last_error=EVIL,
        rows=(TableCount(EVIL, 1, 1, 0, 0),),
        refusals=tuple(replace(refusal, path=EVIL, reason=EVIL, part=EVIL, way_on=EVIL) for refusal in scene(name).refusals),
        deaths=tuple(replace(death, reason=EVIL, error_class=EVIL, message=EVIL) for death in scene(name).deaths),
    )
    harmless = {tag for tag, _ in page(scene(name)).elements} | {"ul", "li", "bdi", "span", "div"}
    drawn = run_html(s, RATES, LINK)
    seen = Page(drawn)
    assert {tag for tag, _ in seen.elements} <= harmless
    assert not [attr for _, attrs in seen.elements for attr in attrs if attr.startswith("on")]
    for said in (drawn, run_text(s, RATES)):
        said.encode()  # lone surrogates would break the notebook's message
        assert not {"\x1b", "\u202e"} & set(said)
    assert r"\u202egnp.txt" in seen.text, "a name that turns its line around is shown as what it is"


@given(st.text(st.characters(), max_size=60), st.sampled_from(sorted(STATES)))
def test_whatever_a_name_is_the_card_has_the_same_elements(name: str, state: str) -> None:
    plain, odd = (page(replace(scene(state), paths=(path,), pipeline=path or "x", reason=None)) for path in ("p", name))
    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in odd.elements]


def test_very_long_names_are_cut_in_the_middle_and_kept_as_tooltips() -> None:
    path = "/data/" + "very-long-" * 60 + "end.jsonl.zst"
    drawn = run_html(picture_of(paths=(path,), notices=("n" * 5_000,) * 9), RATES)
    assert "very-long-" * 13 not in Page(drawn).text
    assert "end.jsonl.zst" in Page(drawn).text
    assert [attrs["title"] for _, attrs in Page(drawn).elements if (attrs.get("title") or "").startswith("very")] == [path[6:]]
    assert len(drawn) < 40_000
    assert f"{9 - NOTICES} more notes: run.progress().notices" in Page(drawn).text


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "//evil", "http://[", "", None])
def test_only_pages_of_the_web_are_linked_to(address: str | None) -> None:
    assert link(address, "dashboard") == ""
    assert [tag for tag, _ in Page(run_html(picture_of(), RATES, address)).elements if tag == "a"] == []
    assert 'href="https://h/?a=1&amp;b=%22"' in link("https://h/?a=1&b=%22", "x")


def test_runs_are_rows_and_none_is_said() -> None:
    runs = [scene(name) for name in STATES]
    seen = Page(runs_html(runs))
    assert [tag for tag, _ in seen.elements].count("tr") == 1 + len(runs)
    assert len([attrs for _, attrs in seen.elements if attrs.get("role") == "progressbar"]) == len(runs)
    assert len(runs_text(runs).splitlines()) == len(runs)
    assert "no runs yet" in Page(runs_html([])).text
    assert runs_text([]) == "no runs yet"


def test_a_cluster_tells_where_it_is_and_what_is_away() -> None:
    facts = ClusterFacts("0.1.0", "127.0.0.1:50051", 2, "localhost:5432/reports", LINK, (scene("running"),), ("since 10:02:11 UTC: <b>",))
    said = Page(cluster_html(facts)).text
    for part in ("Protheon 0.1.0", "at 127.0.0.1:50051", "2 workers", "into localhost:5432/reports", "dashboard", "43 %", "UTC: <b>"):
        assert part in said
    lines = cluster_text(facts).splitlines()
    assert lines[0].endswith(LINK)
    assert lines[1:] == ["since 10:02:11 UTC: <b>"]
    far = replace(facts, dashboard_way="ssh -N -L 8787:127.0.0.1:8787 nuc")  # its link leads to this machine's own loopback
    assert f"{LINK} there: from here, first ssh -N -L 8787:127.0.0.1:8787 nuc" in cluster_text(far)
    assert "from here, first ssh -N -L 8787:127.0.0.1:8787 nuc" in Page(cluster_html(far)).text
    assert "1 worker no runs" in Page(cluster_html(ClusterFacts("0.1.0", "h:1", 1))).text


def test_a_verdict_claims_no_more_than_was_looked_at() -> None:
    bare = TableCheck("public.b", False, Verdict.NOT_LOOKED_AT, why_not="no provenance", lacks_provenance=True)
    odd = TableCheck("public.<i>", True, Verdict.DIFFERS, ("table public.<i>: 1 is missing",), n_rows=9, n_chunks=2, n_summed=2)
    good = Verification(3, (), ("each chunk has one attempt",), ("load 1: undone",), (bare,))
    bad = Verification(3, odd.findings, ("rows that are in the tables",), (), (odd,), {"rows that are in the tables": odd.findings})
    noted = replace(good, notes=("values not compared: the load was made without --checksum",))
    for said in (Page(verification_html(noted)).text, verification_text(noted)):
        assert "the load was made without checksum=True" in said, "in a notebook nobody types --checksum"
    assert "✓ verified by the ledger; 1 table was not looked at" in Page(verification_html(good)).text
    assert "declare their tables with provenance=True" in Page(verification_html(good)).text
    assert Page(verification_html(bad)).text.count("1 is missing") == 1
    assert "✕ differs" in Page(verification_html(bad)).text
    assert verification_text(bad).splitlines() == [
        "run 3: differs",
        "  differs  rows that are in the tables",
        "  differs  table public.<i>: 9 rows of 2 chunks counted, values of 2 compared",
        "           table public.<i>: 1 is missing",
    ]


def test_before_the_first_picture_a_card_says_what_it_waits_for() -> None:
    assert "run 3: <asking>" in Page(told_html("run 3: <asking>")).text


def test_every_call_that_a_card_names_is_one_that_runs_and_clusters_have() -> None:
    over = picture_of(state=RunState.INCOMPLETE, reason="over the reject limit of 50 %: 9 of 10", rejected=9)
    runs = [*(scene(name) for name in STATES), over, replace(scene("incomplete"), dead_letters=0), picture_of(state=RunState.PAUSED)]
    calls = {found for s in runs for _, call in ways_on(s) for found in re.findall(r"\b(run|cluster)\.(\w+)\(", call)}
    assert {name for kind, name in calls if kind == "run"} >= {"rejects", "debug", "resume", "replay_rejects", "dead_letters"}
    kinds = {"run": Run, "cluster": Cluster}
    assert not [f"{kind}.{name}" for kind, name in calls if not callable(getattr(kinds[kind], name, None))]
