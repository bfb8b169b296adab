"""How a run ended, for people at a terminal: what the ledger counted, table by table, and the commands to look at next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final, assert_never

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli.output import Listing, Shown
from protheon_dask.cli.progress import STATE_STYLES
from protheon_dask.model import YOUR_PIPELINE
from protheon_dask.telemetry.ended import (
    REASONS,
    WayOn,
    death_reasons,
    facts,
    loaded_before,
    no_json,
    paused_at_limit,
    reasons,
    replayed_run,
    ways_on,
)
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.told import what, why

ROW_COLUMNS = (
    Shown("table", "table", keep=True),
    Shown("inserted", "inserted", words.count, right=True),
    Shown("updated", "updated", words.count, right=True),
    Shown("ignored", "ignored", words.count, right=True),
)


LEADS: Final = {
    WayOn.RESUME: "to go on",
    WayOn.RESUME_UNDER_LIMIT: "to go on",
    WayOn.LOAD_UNDER_LIMIT: "to bear that many",
    WayOn.LOAD_MENDED: "with mended code",
    WayOn.REPLAY_DEAD_LETTERS: "once a cause outside of the code is mended",
}
"""How a hint begins; the others with ``see``."""
AT_ONCE: Final = (WayOn.RESUME, WayOn.RESUME_UNDER_LIMIT, WayOn.LOAD_UNDER_LIMIT)
"""Ways that stand before the reasons: without them nothing goes on."""


def headline(s: RunStatistics) -> Text:
    """``run 3 · pgcr · a.jsonl.zst: succeeded``, and the reason where there is one."""
    text = Text.assemble(what(s), ": ", (str(s.state), STATE_STYLES.get(s.state, "bold")))
    return text.append(f": {reason}") if (reason := why(s)) else text


def rows_table(s: RunStatistics) -> Listing:
    """Rows by table."""
    rows = [{"table": c.table, "inserted": c.inserted, "updated": c.updated, "ignored": c.ignored} for c in s.rows]
    return Listing(ROW_COLUMNS, rows)


def command(way: WayOn, run: int, paths: Sequence[str], database: str = "", pipeline: str = YOUR_PIPELINE) -> str:
    """The command that does it. database, pipeline: as in summary()."""
    match way:
        case WayOn.SEE_REJECTS:
            return f"protheon rejects show {run}{database}"
        case WayOn.REPLAY_REJECTS:
            return f"protheon rejects replay {run} {pipeline}{database}"
        case WayOn.SEE_DEAD_LETTERS:
            return f"protheon dlq show {run}{database}"
        case WayOn.SEE_ALL_DEAD_LETTERS:
            return f"protheon dlq list {run} --all{database}"
        case WayOn.SEE_FILES:
            return f"protheon files {run}{database}"
        case WayOn.RESUME:
            return f"protheon runs resume {run}{database}"
        case WayOn.RESUME_UNDER_LIMIT:
            return f"protheon runs resume {run} --reject-limit N|P%{database}"
        case WayOn.LOAD_UNDER_LIMIT:
            return f"{mended_hint(paths, database, pipeline)} --reject-limit N|P%"
        case WayOn.LOAD_MENDED:
            return mended_hint(paths, database, pipeline)
        case WayOn.REPLAY_DEAD_LETTERS:
            return f"protheon dlq replay {run}{database}"
        case _:
            assert_never(way)


def next_step(s: RunStatistics, database: str = "") -> str:
    """The command that goes on with a paused run."""
    return command(WayOn.RESUME_UNDER_LIMIT if paused_at_limit(s) else WayOn.RESUME, s.run, s.paths, database)


def to_bear_more(s: RunStatistics, database: str = "", pipeline: str = YOUR_PIPELINE) -> str | None:
    """The way on with a run that has ended over its reject limit: it cannot be resumed, but what it loaded counts for the next one."""
    if WayOn.LOAD_UNDER_LIMIT not in dict(ways_on(s)):
        return None
    return f"to bear that many: {command(WayOn.LOAD_UNDER_LIMIT, s.run, s.paths, database, pipeline)}"


def mended_hint(paths: Sequence[str], database: str, pipeline: str = YOUR_PIPELINE) -> str:
    """The command that takes dead chunks of these sources up under mended code; a replay of dead letters keeps the run's own."""
    path, *others = dict.fromkeys(paths)
    if (replayed := replayed_run(paths)) is not None:
        return f"protheon rejects replay {replayed} {pipeline}{database}"
    return f"protheon load {'PATH..' if others else shlex.quote(path)} {pipeline}{database}"


def summary(s: RunStatistics, database: str = "", pipeline: str = YOUR_PIPELINE) -> list[RenderableType]:
    """What a person reads at the end of a load.

    database: what the hints add to mean the same one (verbs.flag_of). pipeline: the option that names it as it was typed.
    """
    drawing: list[RenderableType] = [Padding(headline(s), (1, 0, 0, 2))]
    drawing += [Text(f"  {told}", style="bold") for told in loaded_before(s)]
    if s.rows:
        drawing.append(Padding(rows_table(s), (1, 0, 1, 2)))
    ways = [(LEADS.get(way, "see"), command(way, run, s.paths, database, pipeline), way in AT_ONCE) for way, run in ways_on(s)]
    drawing += [Text(f"  {fact}") for fact in facts(s)]
    drawing += [Text(f"  {lead}: {typed}") for lead, typed, at_once in ways if at_once]
    drawing += [Text(f"  {reason}", style="yellow") for reason in reasons(s.refusals, REASONS)]
    drawing += [Text(f"  {reason}", style="yellow") for reason in death_reasons(s.deaths)]
    if way_on := no_json(s):
        drawing.append(Text(f"  {way_on}", style="bold"))
    drawing += [Text(f"  {lead}: {typed}", style="dim") for lead, typed, at_once in ways if not at_once]
    return drawing
