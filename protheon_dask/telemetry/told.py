"""A run in words, the same on the card, in a terminal and on the pages: from RunStatistics alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protheon_dask import words
from protheon_dask.model import RunState
from protheon_dask.telemetry.pace import Rates
from protheon_dask.telemetry.statistics import RunStatistics

MOST_COUNTED: Final = 1_000  # chunks of others before a run's own, as run_statistics.sql counts them
ERROR_CHARACTERS: Final = 120  # of an error in a line about something else
SEPARATOR: Final = "  ·  "


def why(s: RunStatistics) -> str | None:
    """Why the run is as it is. The reason of its end holds no more where others went on with its files."""
    if not s.gone_on_by:
        return s.reason
    return f"its files were gone on with by run {', '.join(map(str, s.gone_on_by))}"


def short_error(error_class: str | None, message: str | None) -> str:
    """``MemoryError: no room for it``, on one line, cut where it is long."""
    text = " ".join(": ".join(part for part in (error_class, message) if part).split())
    return text if len(text) <= ERROR_CHARACTERS else f"{text[:ERROR_CHARACTERS]} .."


def waits_for(s: RunStatistics) -> str | None:
    """What the run waits for, in words; None while it works."""
    if s.state.is_final:
        return None
    if reason := why(s):
        return reason
    if s.state is RunState.QUEUED or s.files == 0:
        return "waiting for the sources to be identified"
    if s.chunks_running:
        return None
    if s.files_done + s.attached_files >= s.files and s.attached_files:
        return "waiting for another run that loads the same files"
    if s.is_pausing:
        failed = "1 chunk failed and is" if s.chunks_later == 1 else f"{words.count(s.chunks_later)} chunks failed and are"
        next_one = f", {'the next ' if s.chunks_later > 1 else ''}in {words.duration(s.next_try_s)}" if s.next_try_s is not None else ""
        why_failed = f" ({short_error(s.last_error, s.last_message)})" if s.last_error else ""
        return f"{failed} tried again{next_one}{why_failed}"
    if s.chunks_ready:
        if not s.behind:
            return "waiting for a worker to take a chunk"
        most = " or more" if s.chunks_before >= MOST_COUNTED else ""
        return f"behind run {', '.join(map(str, s.behind))}: {words.counted(s.chunks_before, 'chunk')}{most} before its own"
    if not s.split_done:
        return "waiting for the first chunks to be cut" if not s.chunks else "waiting for more chunks to be cut"
    return "finishing: indexes and statistics"


def in_flight_fraction(s: RunStatistics) -> float:
    """Share of the run's lines that workers have in hand, as far as can be said."""
    if not s.chunks_running or not s.estimated_lines:
        return 0.0
    lines_a_chunk = s.lines / s.chunks_done if s.chunks_done else s.estimated_lines / s.chunks if s.split_done else 0.0
    return max(0.0, min(1.0 - s.fraction, s.chunks_running * lines_a_chunk / s.estimated_lines))


def what(s: RunStatistics) -> str:
    """``run 3 · pgcr · one.jsonl.zst and 4 more``."""
    return SEPARATOR.join(named(s))


def named(s: RunStatistics) -> tuple[str, str, str]:
    """The run, its pipeline, and what it loads."""
    first = s.paths[0].rstrip("/").rsplit("/", 1)[-1] if s.paths else ""
    more = f" and {len(s.paths) - 1} more" if len(s.paths) > 1 else ""
    return f"run {s.run}", s.pipeline, f"{first}{more}"


def amounts(s: RunStatistics) -> list[str]:
    """Chunks, files and lines; ``~`` marks what is still an estimate. Of what nobody knows there is no ``of``."""
    about = "" if s.split_done else "~"
    of_lines = f" of {about}{words.count(s.estimated_lines)}" if s.estimated_lines else ""
    running = f", {s.chunks_running} in flight" if s.chunks_running else ""
    dead = f", {s.chunks_dead} dead" if s.chunks_dead else ""
    skipped = f", {s.skipped_files} skipped" if s.skipped_files else ""
    parts = [
        f"chunks {words.count(s.chunks_done)} of {about}{words.count(s.chunks)}{running}{dead}",
        f"lines {words.count(s.lines)}{of_lines}",
    ]
    if s.files > 1 or s.skipped_files:
        parts.insert(0, f"files {words.count(s.files_done)} of {words.count(s.files)}{skipped}")
    return parts


def speeds(rates: Rates) -> list[str]:
    if not rates.lines_per_s:
        return []
    parts = [
        f"{words.rate(rates.lines_per_s)} lines/s",
        f"{words.rate(rates.raw_mb_per_s)} MB/s",
        f"{words.rate(rates.rows_per_s)} rows/s",
    ]
    return parts + ([f"ETA {words.duration(rates.eta_s)}"] if rates.eta_s is not None else [])


def troubles(s: RunStatistics) -> list[str]:
    parts = []
    if s.rejected or s.rejected_parts:
        parts.append(words.counted(s.rejected, "reject"))
    if s.rejected_parts:
        parts.append(words.counted(s.rejected_parts, "rejected part"))
    if s.retries:
        parts.append(words.counted(s.retries, "retry", "retries"))
    if s.dead_letters:
        parts.append(words.counted(s.dead_letters, "dead letter"))
    return parts


def pack(parts: Sequence[str], width: int, separator: str = SEPARATOR) -> list[str]:
    """Lay parts side by side into lines of at most width; a part is cut only where it is wider than a line."""
    lines: list[str] = []
    for part in parts:
        piece = part if len(part) <= width else part[: max(1, width - 1)] + "…"
        if lines and len(lines[-1]) + len(separator) + len(piece) <= width:
            lines[-1] += separator + piece
        else:
            lines.append(piece)
    return lines
