"""Runs, clusters and verdicts as a person sees them in a notebook: HTML for its page, text for a console. Pure.

All is said in the words of told, ended and verdict, as in a terminal; only what a person does next is Python here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, assert_never, overload

from protheon_dask import words
from protheon_dask.model import YOUR_PIPELINE, RunState
from protheon_dask.telemetry import ended, verdict
from protheon_dask.telemetry.ended import REASONS, WayOn
from protheon_dask.telemetry.markup import bar, card, foreign, line, link, listed, table, text
from protheon_dask.telemetry.pace import Rates
from protheon_dask.telemetry.palette import RUN_STATES
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.told import amounts, in_flight_fraction, named, pack, speeds, troubles, waits_for, why
from protheon_dask.telemetry.verdict import Verified

NAME_CHARACTERS: Final = 120
"""Of a path's or a table's name; its tooltip has all."""
TOLD_CHARACTERS: Final = 600
"""Of a reason, a notice or an error: a dozen lines of a narrow card."""
NOTICES: Final = 3
"""Notices that a card tells; ``run.progress().notices`` has all."""
LEAST_IN_FLIGHT: Final = 0.005
"""Of the bar's width: what is in flight can be seen however small its share."""
NOT_YET: Final = 0.99
"""A run that is not cut to its end has not loaded all, whatever was estimated."""
TEXT_WIDTH: Final = 78
AGAIN: Final = "again=True"
DASHBOARD: Final = "dashboard"

_CALLS: Final = tuple(
    (re.compile(rf"protheon {command}(?![\w-])"), call)
    for command, call in (
        (rf"rejects replay (\d+) {YOUR_PIPELINE}", "replay_rejects(pipeline=..)"),
        (r"rejects show (\d+)", "rejects()"),
        (r"dlq list (\d+) --all", "dead_letters(everything=True)"),
        (r"dlq list (\d+)", "dead_letters()"),
        (r"runs resume (\d+)", "resume()"),
        (r"runs cancel (\d+)", "cancel()"),
        (r"runs watch (\d+)", "watch()"),
    )
)
"""What the ledger's reasons and notices tell a person to type, and the call of a run that does it."""


_WORDS: Final = (
    (
        "its command ended; type the same again to go on",
        "its cluster ended; loading the same again goes on with it: run that cell once more",
    ),
    ("type the same again", "load the same again"),
    ("--again", AGAIN),
    ("--checksum", "checksum=True"),
    ("--chunk-lines", "chunk_lines"),
)
"""Likewise what a person would type or add there."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the card of a cluster tells. database: without a password; missing: what is away, in words, with since when."""

    version: str
    address: str  # of the master
    n_workers: int
    database: str | None = None
    dashboard_link: str | None = None
    runs: tuple[RunStatistics, ...] = ()  # newest first
    missing: tuple[str, ...] = ()
    dashboard_way: str = ""  # the command that brings it here from another host, whose loopback it is; empty: none is needed


def shown_fraction(s: RunStatistics, least: float = 0.0) -> float:
    """The solid part of a live bar. least: what was shown already; an estimate that grows does not take it back, the run's end tells."""
    if s.state.is_final:
        return s.fraction
    fraction = s.fraction if s.split_done else min(s.fraction, NOT_YET)
    return max(fraction, least)


# --- one run --------------------------------------------------------------------------------------------------------------------


def run_html(s: RunStatistics, rates: Rates, dashboard_link: str | None = None, *, least_fraction: float = 0.0) -> str:
    """The card of a run. least_fraction: what a live display has shown already (shown_fraction)."""
    name, pipeline, files = named(s)
    title = [
        _state(s.state),
        f'<span class="p-title">{text(name)}</span>',
        foreign(pipeline, NAME_CHARACTERS),
        foreign(files, NAME_CHARACTERS),
    ]
    parts = [line([*title, *filter(None, [link(dashboard_link, DASHBOARD)])]), _progress(s, least_fraction)]
    if s.state.is_settled:
        parts += _settled_html(s)
    else:
        parts.append(line(map(text, [*amounts(s), *speeds(rates)])))
        if trouble := troubles(s):
            parts.append(line(map(text, trouble), "p-warning"))
        if wait := _called(waits_for(s), s):
            parts.append(line([foreign(wait, TOLD_CHARACTERS)], "p-warning" if words.says_since(wait) else "p-muted"))
    told = _notices(s)
    parts.append(listed((foreign(notice, TOLD_CHARACTERS) for notice in told), "p-muted"))
    return card(f"{name}: {s.state}", parts)


def told_html(told: str) -> str:
    """A card that has no more to tell than this."""
    return card("run", [line([foreign(told, TOLD_CHARACTERS)], "p-muted")])


def _settled_html(s: RunStatistics) -> Iterator[str]:
    if reason := _called(why(s), s):
        yield line([foreign(reason, TOLD_CHARACTERS)], "p-warning")
    yield listed(f"<b>{foreign(told, TOLD_CHARACTERS)}</b>" for told in ended.loaded_before(s, AGAIN))
    if not s.state.is_final:
        yield line(map(text, amounts(s)))
    yield from (line([text(fact)]) for fact in ended.facts(s, AGAIN))
    if s.rows:
        heads = (("table", False), ("inserted", True), ("updated", True), ("ignored", True))
        counts = ((c.table, words.count(c.inserted), words.count(c.updated), words.count(c.ignored)) for c in s.rows)
        rows = ((foreign(name, NAME_CHARACTERS, "p-name"), *cells) for name, *cells in counts)
        yield table(heads, rows)
    yield listed((foreign(told, TOLD_CHARACTERS) for told in _failures(s)), "p-warning")
    yield listed(f"{escape(lead)}: <code>{text(call)}</code>" for lead, call in ways_on(s))


def run_text(s: RunStatistics, rates: Rates, *, least_fraction: float = 0.0, width: int = TEXT_WIDTH) -> str:
    """The same for a console: lines of at most width, but for what is to be copied."""
    fraction = shown_fraction(s, least_fraction)
    lines = [": ".join((words.visible("  ·  ".join(named(s)), width - len(s.state) - 2), str(s.state)))]
    cells = min(48, width - 10)
    solid = int(fraction * cells)
    light = min(cells - solid, max(1, round(in_flight_fraction(s) * cells))) if s.chunks_running else 0
    lines.append(f"{'━' * solid}{'╍' * light}{'─' * (cells - solid - light)} {words.percent(fraction)}")
    if s.state.is_settled:
        lines += [words.visible(told, TOLD_CHARACTERS) for told in (_called(why(s), s), *ended.loaded_before(s, AGAIN)) if told]
        if not s.state.is_final:
            lines += pack(amounts(s), width)
        lines += ended.facts(s, AGAIN)
        for c in s.rows:
            counts = ((c.inserted, "inserted"), (c.updated, "updated"), (c.ignored, "ignored"))
            lines.append(f"{words.visible(c.table, NAME_CHARACTERS)}: {', '.join(f'{words.count(n)} {what}' for n, what in counts)}")
        lines += [words.visible(told, TOLD_CHARACTERS) for told in _failures(s)]
        lines += [f"{lead}: {words.visible(call)}" for lead, call in ways_on(s)]
    else:
        lines += pack([*amounts(s), *speeds(rates)], width)
        lines += pack(troubles(s), width)
        if wait := _called(waits_for(s), s):
            lines.append(words.visible(wait, TOLD_CHARACTERS))
    return "\n".join([*lines, *(f"note: {words.visible(notice, TOLD_CHARACTERS)}" for notice in _notices(s))])


def _failures(s: RunStatistics) -> list[str]:
    """Why lines are refused and chunks are dead, in plain words."""
    no_json = ended.no_json(s)
    return [*ended.reasons(s.refusals, REASONS), *ended.death_reasons(s.deaths), *([no_json] if no_json else [])]


def ways_on(s: RunStatistics) -> list[tuple[str, str]]:
    """What a person does next: in words, and the call."""
    return [pair for way, run in ended.ways_on(s) for pair in _calls(way, run, s)]


def _calls(way: WayOn, run: int, s: RunStatistics) -> list[tuple[str, str]]:
    match way:
        case WayOn.SEE_REJECTS:
            found = [("see what was refused", "run.rejects()"), ("see why, line by line", "run.debug(run.rejects().iloc[0])")]
            is_to_be_mended = s.state.is_final and WayOn.REPLAY_REJECTS not in dict(
                ended.ways_on(s)
            )  # which says it of the run that refused
            return [*found, *([("with a pipeline that takes them", "run.replay_rejects(pipeline=..)")] if is_to_be_mended else [])]
        case WayOn.REPLAY_REJECTS:
            return [(f"lines of run {run} are still refused", f"cluster.run({run}).replay_rejects(pipeline=..)")]
        case WayOn.SEE_DEAD_LETTERS:
            return [("see what failed", "run.dead_letters()"), ("see where", "run.debug(run.dead_letters().iloc[0])")]
        case WayOn.SEE_ALL_DEAD_LETTERS:
            return [("see what failed, and was given up", "run.dead_letters(everything=True)")]
        case WayOn.SEE_FILES:
            return [("see which files are not whole", "run.files()")]
        case WayOn.RESUME:
            return [("to go on", "run.resume()")]
        case WayOn.RESUME_UNDER_LIMIT:
            return [("to go on", "run.resume(reject_limit=..)")]
        case WayOn.LOAD_UNDER_LIMIT:
            return [("to bear that many", "cluster.load(.., reject_limit=..)")]
        case WayOn.LOAD_MENDED:
            replayed = ended.replayed_run(s.paths)
            load = "cluster.load(.., pipeline=..)" if replayed is None else f"cluster.run({replayed}).replay_rejects(pipeline=..)"
            return [("with mended code", load)]
        case WayOn.REPLAY_DEAD_LETTERS:
            return [("once a cause outside of the code is mended", "run.replay_dead_letters()")]
        case _:
            assert_never(way)


def _notices(s: RunStatistics) -> list[str]:
    untold = [notice for notice in s.notices if not (s.state.is_settled and ended.is_told(notice, s))]
    told = [_called(notice, s) for notice in untold[:NOTICES]]
    rest = len(untold) - len(told)
    return told + ([f"{words.counted(rest, 'more note')}: run.progress().notices"] if rest else [])


@overload
def _called(told: str, s: RunStatistics) -> str: ...
@overload
def _called(told: str | None, s: RunStatistics) -> str | None: ...
def _called(told: str | None, s: RunStatistics) -> str | None:
    """The same with calls for a terminal's commands: of this run as ``run``, of another one by its number."""
    return None if told is None else in_python(told).replace(f"cluster.run({s.run}).", "run.")


def in_python(told: str) -> str:
    """What is said of a terminal's commands and options as calls: of a run by its number."""
    for command, call in _CALLS:
        told = command.sub(rf"cluster.run(\1).{call}", told)
    for typed, said in _WORDS:
        told = told.replace(typed, said)
    return told


def _state(state: RunState) -> str:
    look = RUN_STATES[state]
    return f'<span class="p-state" style="color:var(--p-state-{state})">{escape(look.symbol)} {escape(look.label)}</span>'


def _progress(s: RunStatistics, least: float = 0.0, css: str = "p-progress") -> str:
    fraction = shown_fraction(s, least)
    light = min(1.0 - fraction, max(LEAST_IN_FLIGHT, in_flight_fraction(s))) if s.chunks_running else 0.0
    return bar(fraction, light, words.percent(fraction), f"committed lines of run {s.run}", css)


# --- runs and clusters ------------------------------------------------------------------------------------------------------------


def runs_html(runs: Sequence[RunStatistics]) -> str:
    """Runs, a row each."""
    return card("runs", [_runs_table(runs) if runs else line([NO_RUNS], "p-muted")])


def runs_text(runs: Sequence[RunStatistics]) -> str:
    """Runs, a line each."""
    return "\n".join(_run_line(s) for s in runs) or NO_RUNS


NO_RUNS: Final = "no runs yet"


def _run_line(s: RunStatistics) -> str:
    name = words.visible("  ·  ".join(named(s)), TEXT_WIDTH)
    parts = [words.percent(shown_fraction(s)), words.counted(s.lines, "line"), *troubles(s)]
    return f"{name}: {s.state}, {', '.join(parts)}"


def _runs_table(runs: Sequence[RunStatistics]) -> str:
    """Names stand last: a narrow page is scrolled for them, and not for numbers."""
    columns: dict[tuple[str, bool], list[str]] = {
        ("run", True): [str(s.run) for s in runs],
        ("state", False): [_state(s.state) for s in runs],
        ("progress", False): [_progress(s, css="p-small") for s in runs],
        ("lines", True): [words.count(s.lines) for s in runs],
        ("rejects", True): [words.count(s.rejected) if s.rejected else "" for s in runs],
        ("dead letters", True): [words.count(s.dead_letters) if s.dead_letters else "" for s in runs],
        ("time", True): [words.duration(s.seconds) for s in runs],
        ("pipeline", False): [foreign(named(s)[1], NAME_CHARACTERS, "p-name") for s in runs],
        ("files", False): [foreign(named(s)[2], NAME_CHARACTERS, "p-name") for s in runs],
    }
    told = {head: cells for head, cells in columns.items() if any(cells)}
    return table(told, zip(*told.values(), strict=True))


def cluster_html(facts: ClusterFacts) -> str:
    """The card of a cluster: where it is, what it has, and its newest runs."""
    title = [f'<span class="p-title">Protheon {text(facts.version)}</span>', *map(text, _places(facts))]
    parts = [line([*title, *filter(None, [link(facts.dashboard_link, DASHBOARD)])])]
    if facts.dashboard_way:
        way = f"<code>{text(facts.dashboard_way)}</code>"
        parts.append(line([f"the dashboard is on the master's own loopback: from here, first {way}"], "p-muted"))
    parts.append(listed((foreign(missing, TOLD_CHARACTERS) for missing in facts.missing), "p-warning"))
    return card("cluster", [*parts, _runs_table(facts.runs) if facts.runs else line([NO_RUNS], "p-muted")])


def cluster_text(facts: ClusterFacts) -> str:
    """Where it is and what it has on one line, and a line for each thing that is away: what is printed beside other things is short."""
    way = f" there: from here, first {facts.dashboard_way}" if facts.dashboard_way else ""
    dashboard = [f"{facts.dashboard_link}{way}"] if facts.dashboard_link else []
    lines = ["  ·  ".join(words.visible(part) for part in (f"Protheon {facts.version}", *_places(facts), *dashboard))]
    return "\n".join([*lines, *map(words.visible, facts.missing)])


def _places(facts: ClusterFacts) -> list[str]:
    database = [f"into {facts.database}"] if facts.database else []
    return [f"at {facts.address}", words.counted(facts.n_workers, "worker"), *database]


# --- verify -----------------------------------------------------------------------------------------------------------------------


def verification_html(found: Verified) -> str:
    """What verify found: the verdict, then each check and table with what differs of it."""
    css, symbol = ("p-bad", "✕") if found.findings else ("p-good", "✓")
    told = f'<span class="p-state {css}">{symbol} {verdict.verdict(found)}</span>{text(verdict.reach(found))}'
    parts = [line([f'<span class="p-title">run {found.run_id}</span>', told])]
    styles = {verdict.OK: "p-good", verdict.DIFFERS: "p-bad", verdict.NOTE: "p-muted"}
    items = []
    for drawn in verdict.lines(found):
        below = listed((foreign(finding, TOLD_CHARACTERS) for finding in drawn.findings), "p-bad")
        items.append(f'<span class="{styles[drawn.word]}">{drawn.word}</span> {foreign(in_python(drawn.text), TOLD_CHARACTERS)}{below}')
    parts.append(listed(items))
    if what_to_do := verdict.what_to_do(found):
        parts.append(line([escape(what_to_do)], "p-muted"))
    return card(f"run {found.run_id}: {verdict.verdict(found)}", parts)


def verification_text(found: Verified) -> str:
    """The same for a console."""
    lines = [f"run {found.run_id}: {verdict.verdict(found)}{words.visible(verdict.reach(found))}"]
    for drawn in verdict.lines(found):
        lines.append(f"  {drawn.word:<7}  {words.visible(in_python(drawn.text), TOLD_CHARACTERS)}")
        lines += [f"           {words.visible(finding, TOLD_CHARACTERS)}" for finding in drawn.findings]
    return "\n".join([*lines, *filter(None, [verdict.what_to_do(found)])])
