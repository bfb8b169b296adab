"""A run's progress as text, drawn from RunStatistics alone. Pure: the caller brings the clock and the width."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from protheon_dask.cli import figures
from protheon_dask.model import RunState
from protheon_dask.telemetry.statistics import RunStatistics

WINDOW_S: Final = 10.0  # a rate looks back this far at least
WINDOW_STEPS: Final = 4  # and over so many commits, so that large chunks do not make it jump between nothing and all
LONGEST_BAR: Final = 60
MOST_COUNTED: Final = 1_000  # chunks of others before a run's own, as run_statistics.sql counts them
ERROR_CHARACTERS: Final = 120  # of an error in a line about something else
SEPARATOR: Final = "  ·  "

STATE_STYLES: Final = {
    RunState.SUCCEEDED: "bold green",
    RunState.INCOMPLETE: "bold yellow",
    RunState.PAUSED: "bold yellow",
    RunState.CANCELLED: "bold red",
}


@dataclass(frozen=True, slots=True)
class Rates:
    """What the last seconds brought. eta_s is None while nothing can be said."""

    lines_per_s: float = 0.0
    raw_mb_per_s: float = 0.0
    rows_per_s: float = 0.0
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    at_s: float
    lines: int
    raw_bytes: int
    rows: int


class Pace:
    """Rates over a sliding window of what was committed. Not thread-safe.

    What other runs had loaded before counts for nothing: when the run's set of files changes, the window begins anew.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._files: tuple[int, int, int] | None = None
        self._latest: RunStatistics | None = None

    def add(self, statistics: RunStatistics, now_s: float) -> None:
        """Take a picture of the run; now_s is any clock that only rises."""
        files = (statistics.files, statistics.skipped_files, statistics.attached_files)
        if files != self._files:
            self._steps.clear()
            self._files = files
        self._latest = statistics
        if self._steps and self._steps[-1].lines == statistics.lines:
            return
        self._steps.append(_Step(now_s, statistics.lines, statistics.raw_bytes, sum(count.offered for count in statistics.rows)))
        while len(self._steps) > WINDOW_STEPS + 1 and now_s - self._steps[1].at_s >= WINDOW_S:
            self._steps.popleft()

    def rates(self, now_s: float) -> Rates:
        """Rates up to now_s: they sink while nothing is committed."""
        if self._latest is None or len(self._steps) < 2:
            return Rates()
        first, last = self._steps[0], self._steps[-1]
        spacing_s = (last.at_s - first.at_s) / (len(self._steps) - 1)
        # Between two commits nothing is wrong: time counts from the moment at which the next one is overdue.
        seconds = max(last.at_s - first.at_s, now_s - first.at_s - spacing_s, 1e-9)
        lines_per_s = (last.lines - first.lines) / seconds
        left = self._latest.estimated_lines - last.lines
        known = lines_per_s > 0 and left >= 0 and not self._latest.state.is_final and not self._latest.is_pausing
        return Rates(
            lines_per_s=lines_per_s,
            raw_mb_per_s=(last.raw_bytes - first.raw_bytes) / 1e6 / seconds,
            rows_per_s=(last.rows - first.rows) / seconds,
            eta_s=max(0.0, left / lines_per_s - min(now_s - last.at_s, spacing_s)) if known else None,
        )


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
        failed = "1 chunk failed and is" if s.chunks_later == 1 else f"{figures.count(s.chunks_later)} chunks failed and are"
        next_one = f", {'the next ' if s.chunks_later > 1 else ''}in {figures.duration(s.next_try_s)}" if s.next_try_s is not None else ""
        why_failed = f" ({short_error(s.last_error, s.last_message)})" if s.last_error else ""
        return f"{failed} tried again{next_one}{why_failed}"
    if s.chunks_ready:
        if not s.behind:
            return "waiting for a worker to take a chunk"
        most = " or more" if s.chunks_before >= MOST_COUNTED else ""
        return f"behind run {', '.join(map(str, s.behind))}: {figures.counted(s.chunks_before, 'chunk')}{most} before its own"
    if not s.split_done:
        return "waiting for the first chunks to be cut" if not s.chunks else "waiting for more chunks to be cut"
    return "finishing: indexes and statistics"


def in_flight_fraction(s: RunStatistics) -> float:
    """Share of the run's lines that workers have in hand, as far as can be said."""
    if not s.chunks_running or not s.estimated_lines:
        return 0.0
    lines_a_chunk = s.lines / s.chunks_done if s.chunks_done else s.estimated_lines / s.chunks if s.split_done else 0.0
    return max(0.0, min(1.0 - s.fraction, s.chunks_running * lines_a_chunk / s.estimated_lines))


def bar(s: RunStatistics, width: int, *, plain: bool = False) -> Text:
    """Committed solid, in flight light, the rest faint; plain: ASCII only. Exactly width cells."""
    solid, light, rest = ("#", "+", ".") if plain else ("━", "╍", "─")
    committed = int(s.fraction * width)
    flying = min(width - committed, max(1, round(in_flight_fraction(s) * width))) if s.chunks_running else 0
    return Text.assemble(
        (solid * committed, "green"), (light * flying, "cyan"), (rest * (width - committed - flying), "bright_black"), no_wrap=True
    )


def what(s: RunStatistics) -> str:
    """``run 3 · pgcr · one.jsonl.zst and 4 more``."""
    first = s.paths[0].rstrip("/").rsplit("/", 1)[-1] if s.paths else ""
    more = f" and {len(s.paths) - 1} more" if len(s.paths) > 1 else ""
    return f"run {s.run}{SEPARATOR}{s.pipeline}{SEPARATOR}{first}{more}"


def amounts(s: RunStatistics) -> list[str]:
    """Chunks, files and lines; ``~`` marks what is still an estimate."""
    about = "" if s.split_done else "~"
    running = f", {s.chunks_running} in flight" if s.chunks_running else ""
    dead = f", {s.chunks_dead} dead" if s.chunks_dead else ""
    skipped = f", {s.skipped_files} skipped" if s.skipped_files else ""
    parts = [
        f"chunks {figures.count(s.chunks_done)} of {about}{figures.count(s.chunks)}{running}{dead}",
        f"lines {figures.count(s.lines)} of {about}{figures.count(s.estimated_lines)}",
    ]
    if s.files > 1 or s.skipped_files:
        parts.insert(0, f"files {figures.count(s.files_done)} of {figures.count(s.files)}{skipped}")
    return parts


def speeds(rates: Rates) -> list[str]:
    if not rates.lines_per_s:
        return []
    parts = [
        f"{figures.rate(rates.lines_per_s)} lines/s",
        f"{figures.rate(rates.raw_mb_per_s)} MB/s",
        f"{figures.rate(rates.rows_per_s)} rows/s",
    ]
    return parts + ([f"ETA {figures.duration(rates.eta_s)}"] if rates.eta_s is not None else [])


def troubles(s: RunStatistics) -> list[str]:
    parts = []
    if s.rejected or s.rejected_parts:
        parts.append(figures.counted(s.rejected, "reject"))
    if s.rejected_parts:
        parts.append(figures.counted(s.rejected_parts, "rejected part"))
    if s.retries:
        parts.append(figures.counted(s.retries, "retry", "retries"))
    if s.dead_letters:
        parts.append(figures.counted(s.dead_letters, "dead letter"))
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


def picture(s: RunStatistics, rates: Rates, width: int, *, plain: bool = False) -> Text:
    """The live display: four to a dozen lines, none wider than width."""
    inner = max(10, width - 2)
    share = figures.percent(s.fraction)
    title = pack([what(s)], inner)[0]
    lines = [Text(title, style="bold")]
    lines.append(Text.assemble(bar(s, max(5, min(LONGEST_BAR, inner - 7)), plain=plain), f" {share:>5}"))
    lines += [Text(line) for line in pack(amounts(s), inner)]
    lines += [Text(line, style="cyan") for line in pack(speeds(rates), inner)]
    lines += [Text(line, style="yellow") for line in pack(troubles(s), inner)]
    if wait := waits_for(s):
        lines += [Text(line, style="magenta") for line in pack([wait], inner)]
    drawing = Text("\n").join(Text("  ") + line for line in lines)
    if plain:
        drawing.plain = drawing.plain.replace("·", "|").replace("…", "~")
    return drawing


def plain_line(s: RunStatistics, rates: Rates) -> str:
    """The same on one line, for a log: words and numbers, no drawing."""
    parts = [f"run {s.run}", str(s.state), figures.percent(s.fraction), *amounts(s), *speeds(rates), *troubles(s)]
    if wait := waits_for(s):
        parts.append(wait)
    return "; ".join(parts)
