"""How a run ended, for people: what the ledger counted, table by table, and what to look at next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from posixpath import basename
from typing import Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli.output import Listing, Shown
from protheon_dask.cli.progress import STATE_STYLES
from protheon_dask.model import REFUSALS_LOOKED, YOUR_PIPELINE, Death, Refusal, RunState
from protheon_dask.policy import OVER_LIMIT, REJECT_LIMIT
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.told import SEPARATOR, short_error, troubles, what, why

ROW_COLUMNS = (
    Shown("table", "table", keep=True),
    Shown("inserted", "inserted", words.count, right=True),
    Shown("updated", "updated", words.count, right=True),
    Shown("ignored", "ignored", words.count, right=True),
)

_LOADED_BY = re.compile(r"loaded already by run (\d+): skipped$")  # as ledger/runs.py puts it; a run's picture has no field for it


_REPLAY = re.compile(rf"protheon rejects replay (\d+) {YOUR_PIPELINE}$")
"""Likewise: lines of a file that was skipped are still refused."""

_REJECTS_OF = re.compile(r"rejects of run (\d+)")
"""As run/replay.py names the source of a run of refused lines."""

_LOST = re.compile(
    r"counts as loaded, but table (.+), into which run \d+ put .* of it, is (gone|empty) now: --again "
)  # as run/desk.py puts it

REASONS: Final = 3
"""Reasons of refused lines that a summary names; `protheon rejects list` has more."""
REASON_CHARACTERS: Final = 200
"""Of a reason in a summary: two lines of a terminal."""
MAX_REPLAYS: Final = 3
"""Commands that a summary names where its files were loaded by many runs; the notices name them all."""


def headline(s: RunStatistics) -> Text:
    """``run 3 · pgcr · a.jsonl.zst: succeeded``, and the reason where there is one."""
    text = Text.assemble(what(s), ": ", (str(s.state), STATE_STYLES.get(s.state, "bold")))
    return text.append(f": {reason}") if (reason := why(s)) else text


def rows_table(s: RunStatistics) -> Listing:
    """Rows by table."""
    rows = [{"table": c.table, "inserted": c.inserted, "updated": c.updated, "ignored": c.ignored} for c in s.rows]
    return Listing(ROW_COLUMNS, rows)


def lines_sentence(s: RunStatistics) -> str:
    """Where every line went."""
    parts = [f"{words.count(s.loaded)} loaded", f"{words.count(s.rejected)} rejected"]
    parts += [f"{words.count(n)} {name}" for n, name in ((s.filtered, "filtered"), (s.blank, "blank")) if n]
    return f"{words.counted(s.lines, 'line')}: {', '.join(parts)}"


def speed_sentence(s: RunStatistics) -> str:
    """What this run itself did, from submit to its end."""
    if not s.own_lines:
        left = "nothing to load" if not s.lines or s.skipped_files == s.files else "all of it was loaded by other runs"
        return f"{words.duration(s.seconds)}{SEPARATOR}{left}"
    parts = [
        words.duration(s.seconds),
        f"{words.rate(s.lines_per_s)} lines/s",
        f"{words.rate(s.raw_mb_per_s)} MB/s",
        f"{words.rate(s.rows_per_s)} rows/s",
    ]
    if s.own_lines < s.lines:
        parts.append(f"{words.counted(s.lines - s.own_lines, 'line')} of it loaded by other runs")
    return SEPARATOR.join(parts)


def reasons(refusals: Sequence[Refusal], limit: int) -> list[str]:
    """``2,640 x column 'price' cannot take ..; first at line 2 of orders.jsonl``, the commonest first."""
    told = []
    for item in refusals[:limit]:
        reason = item.reason if len(item.reason) <= REASON_CHARACTERS else f"{item.reason[:REASON_CHARACTERS]} .."
        part = f" (part {item.part})" if item.part else ""
        told.append(f"{words.count(item.n)} x {reason}{part}; first at line {words.count(item.line_no)} of {basename(item.path)}")
    rest = refusals[0].n_looked - sum(item.n for item in refusals[:limit]) if refusals else 0
    if rest:
        told.append(f"{words.count(rest)} x for other reasons")
    if refusals and refusals[0].n_looked >= REFUSALS_LOOKED:
        told.append(f"so of {words.count(refusals[0].n_looked)} rejects; there may be more")
    return told


def death_reasons(deaths: Sequence[Death]) -> list[str]:
    """``2 chunks failed 5 times: MemoryError: no room for it``, the commonest first."""
    told = []
    for item in deaths[:REASONS]:
        error = short_error(item.error_class, item.message)
        told.append(f"{words.counted(item.n, 'chunk')} {item.reason}{f': {error}' if error else ''}")
    rest = sum(item.n for item in deaths[REASONS:])
    return told + ([f"{words.counted(rest, 'chunk')} for other reasons"] if rest else [])


def no_json(s: RunStatistics) -> str | None:
    """A way on where most lines of the run are no JSON: a file of another kind, by mistake."""
    found = [item for item in s.refusals if item.way_on]
    n_looked = found[0].n_looked if found else 0
    n = sum(item.n for item in found) * (s.rejected / n_looked if n_looked >= REFUSALS_LOOKED else 1)  # of more, as of those looked at
    if not found or 2 * n < s.lines:
        return None
    return f"most lines are no JSON: {min(found, key=lambda item: item.line_no).way_on}"


def paused_at_limit(s: RunStatistics) -> bool:
    """Did the run pause at its reject limit?"""
    return s.state is RunState.PAUSED and (s.reason or "").startswith(REJECT_LIMIT)


def to_bear_more(s: RunStatistics, database: str = "", pipeline: str = YOUR_PIPELINE) -> str | None:
    """The way on with a run that has ended over its reject limit: it cannot be resumed, but what it loaded counts for the next one."""
    if s.state is not RunState.INCOMPLETE or OVER_LIMIT not in (s.reason or ""):
        return None
    return f"to bear that many: {mended_hint(s.paths, database, pipeline)} --reject-limit N|P%"


def next_step(s: RunStatistics, database: str = "") -> str:
    """The command that goes on with a paused run."""
    return f"protheon runs resume {s.run}{' --reject-limit N|P%' if paused_at_limit(s) else ''}{database}"


def mended_hint(paths: Sequence[str], database: str, pipeline: str = YOUR_PIPELINE) -> str:
    """The command that takes dead chunks of these sources up under mended code; a replay of dead letters keeps the run's own."""
    path, *others = dict.fromkeys(paths)
    if found := _REJECTS_OF.fullmatch(path):
        return f"protheon rejects replay {found[1]} {pipeline}{database}"
    return f"protheon load {'PATH..' if others else shlex.quote(path)} {pipeline}{database}"


def summary(s: RunStatistics, database: str = "", pipeline: str = YOUR_PIPELINE) -> list[RenderableType]:
    """What a person reads at the end of a load.

    database: what the hints add to mean the same one (verbs.flag_of). pipeline: the option that names it as it was typed.
    """
    drawing: list[RenderableType] = [Padding(headline(s), (1, 0, 0, 2))]
    if s.skipped_files and s.skipped_files == s.files:
        loaders = sorted({int(found[1]) for notice in s.notices if (found := _LOADED_BY.search(notice))})
        by = f"by run {', '.join(map(str, loaders))}" if loaders else "before"
        drawing.append(Text(f"  nothing was loaded: it was loaded {by}, with these numbers", style="bold"))
    lost = dict.fromkeys(found.groups() for notice in s.notices if (found := _LOST.search(notice)))
    drawing += [Text(f"  but table {table} is {state} now: load once more with --again", style="bold") for table, state in lost]
    if s.rows:
        drawing.append(Padding(rows_table(s), (1, 0, 1, 2)))
    facts = [lines_sentence(s), speed_sentence(s)]
    if s.skipped_files:
        facts.append(f"{words.counted(s.skipped_files, 'file')} skipped: loaded before (--again loads once more)")
    if trouble := troubles(s):
        facts.append(SEPARATOR.join(trouble))
    hints = []
    if s.rejected or s.rejected_parts:
        hints.append(f"protheon rejects show {s.run}{database}")
    replays = dict.fromkeys(int(found[1]) for notice in s.notices if (found := _REPLAY.search(notice)))
    hints += [f"protheon rejects replay {run} {pipeline}{database}" for run in list(replays)[:MAX_REPLAYS]]
    if s.dead_letters:
        hints.append(f"protheon dlq show {s.run}{database}")
    if s.chunks_dead > s.dead_letters:
        hints.append(f"protheon dlq list {s.run} --all{database}")
    if s.state is RunState.INCOMPLETE and not hints:
        hints.append(f"protheon files {s.run}{database}")
    if s.state is RunState.PAUSED and not s.gone_on_by:
        facts.append(f"to go on: {next_step(s, database)}")
    if bears_more := to_bear_more(s, database, pipeline):
        facts.append(bears_more)
    drawing += [Text(f"  {fact}") for fact in facts]
    drawing += [Text(f"  {reason}", style="yellow") for reason in reasons(s.refusals, REASONS)]
    drawing += [Text(f"  {reason}", style="yellow") for reason in death_reasons(s.deaths)]
    if way_on := no_json(s):
        drawing.append(Text(f"  {way_on}", style="bold"))
    drawing += [Text(f"  see: {hint}", style="dim") for hint in hints]
    if s.dead_letters and s.state.is_final:
        drawing.append(Text(f"  with mended code: {mended_hint(s.paths, database, pipeline)}", style="dim"))
        drawing.append(Text(f"  once a cause outside of the code is mended: protheon dlq replay {s.run}{database}", style="dim"))
    return drawing
