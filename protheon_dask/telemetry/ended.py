"""How a run ended or why it paused, in words, and what a person does next: the same on the card and in a terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from posixpath import basename
from typing import Final

from protheon_dask import words
from protheon_dask.model import REFUSALS_LOOKED, YOUR_PIPELINE, Death, Refusal, RunState
from protheon_dask.policy import OVER_LIMIT, REJECT_LIMIT
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.told import SEPARATOR, short_error, troubles

REASONS: Final = 3
"""Reasons of refused lines, and of dead chunks, that a summary names; the lists of both have more."""
REASON_CHARACTERS: Final = 200
"""Of a reason in a summary: two lines of a terminal."""
AGAIN: Final = "--again"
MAX_REPLAYS: Final = 3
"""Replays that a summary names where its files were loaded by many runs; the notices name them all."""

_LOADED_BY = re.compile(r"loaded already by run (\d+): skipped$")  # as ledger/runs.py puts it; a run's picture has no field for it

_REPLAY = re.compile(rf"protheon rejects replay (\d+) {YOUR_PIPELINE}$")
"""Likewise: lines of a file that was skipped are still refused."""

_REJECTS_OF = re.compile(r"rejects of run (\d+)")
"""As run/replay.py names the source of a run of refused lines."""

_LOST = re.compile(
    r"counts as loaded, but table (.+), into which run \d+ put .* of it, is (gone|empty) now: --again "
)  # as run/desk.py puts it


class WayOn(StrEnum):
    """What a person can do about a run; each face says how."""

    SEE_REJECTS = "see rejects"
    REPLAY_REJECTS = "replay rejects"  # of the run that is named: of files that were skipped
    SEE_DEAD_LETTERS = "see dead letters"
    SEE_ALL_DEAD_LETTERS = "see all dead letters"  # those that were purged are dead as well
    SEE_FILES = "see files"  # it is incomplete, and no chunk's or line's fault
    RESUME = "resume"
    RESUME_UNDER_LIMIT = "resume under another reject limit"
    LOAD_UNDER_LIMIT = "load under another reject limit"  # it has ended and cannot be resumed, but what it loaded counts
    LOAD_MENDED = "load with mended code"  # a replay of dead letters keeps the run's own code
    REPLAY_DEAD_LETTERS = "replay dead letters"  # once a cause outside of the code is mended


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


def facts(s: RunStatistics, again: str = AGAIN) -> list[str]:
    """Lines, time and speed, what was skipped, what went wrong on the way. again: how the face says to load once more."""
    told = [lines_sentence(s), speed_sentence(s)]
    if s.replayed:
        told.append(f"{words.count(s.replayed)} of the rejected are refused no more: replayed by run {', '.join(map(str, s.replayed_by))}")
    if s.skipped_files:
        told.append(f"{words.counted(s.skipped_files, 'file')} skipped: loaded before ({again} loads once more)")
    if trouble := troubles(s):
        told.append(SEPARATOR.join(trouble))
    return told


def loaded_before(s: RunStatistics, again: str = AGAIN) -> list[str]:
    """Said where the run had nothing to do, and where a table that it counts on has been emptied since. again: as in facts()."""
    told = []
    if s.skipped_files and s.skipped_files == s.files:
        loaders = sorted({int(found[1]) for notice in s.notices if (found := _LOADED_BY.search(notice))})
        by = f"by run {', '.join(map(str, loaders))}" if loaders else "before"
        told.append(f"nothing was loaded: it was loaded {by}, with these numbers")
    lost = dict.fromkeys(found.groups() for notice in s.notices if (found := _LOST.search(notice)))
    return told + [f"but table {table} is {state} now: load once more with {again}" for table, state in lost]


def is_told(notice: str, s: RunStatistics) -> bool:
    """Does the rest of an ended run's summary say what this notice says: which run loaded the file, or refused lines of it?"""
    if found := _REPLAY.search(notice):
        return (WayOn.REPLAY_REJECTS, int(found[1])) in ways_on(s)
    return s.files == s.skipped_files == 1 and _LOADED_BY.search(notice) is not None


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


def replayed_run(paths: Sequence[str]) -> int | None:
    """The run of whose refused lines these are the source; None: they are files."""
    found = _REJECTS_OF.fullmatch(paths[0]) if paths else None
    return int(found[1]) if found else None


def ways_on(s: RunStatistics) -> list[tuple[WayOn, int]]:
    """What a person can do about the run now, the most urgent first, each with the run to do it with."""
    ways: list[tuple[WayOn, int]] = []
    if s.state is RunState.PAUSED and not s.gone_on_by:
        ways.append((WayOn.RESUME_UNDER_LIMIT if paused_at_limit(s) else WayOn.RESUME, s.run))
    if s.state is RunState.INCOMPLETE and OVER_LIMIT in (s.reason or ""):
        ways.append((WayOn.LOAD_UNDER_LIMIT, s.run))
    looks: list[tuple[WayOn, int]] = []
    if s.rejected > s.replayed or s.rejected_parts:
        looks.append((WayOn.SEE_REJECTS, s.run))
    replays = dict.fromkeys(int(found[1]) for notice in s.notices if (found := _REPLAY.search(notice)))
    looks += [(WayOn.REPLAY_REJECTS, run) for run in list(replays)[:MAX_REPLAYS]]
    if s.dead_letters:
        looks.append((WayOn.SEE_DEAD_LETTERS, s.run))
    if s.chunks_dead > s.dead_letters:
        looks.append((WayOn.SEE_ALL_DEAD_LETTERS, s.run))
    if s.state is RunState.INCOMPLETE and not looks:
        looks.append((WayOn.SEE_FILES, s.run))
    ways += looks
    if s.dead_letters and s.state.is_final:
        ways += [(WayOn.LOAD_MENDED, s.run), (WayOn.REPLAY_DEAD_LETTERS, s.run)]
    return ways
