"""A run's progress as text for a terminal, drawn from RunStatistics alone. Pure: the caller brings the clock and the width."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from protheon_dask import words
from protheon_dask.model import RunState
from protheon_dask.telemetry.pace import Rates
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.told import amounts, in_flight_fraction, pack, speeds, troubles, waits_for, what

LONGEST_BAR: Final = 60

STATE_STYLES: Final = {
    RunState.SUCCEEDED: "bold green",
    RunState.INCOMPLETE: "bold yellow",
    RunState.PAUSED: "bold yellow",
    RunState.CANCELLED: "bold red",
}


def bar(s: RunStatistics, width: int, *, plain: bool = False) -> Text:
    """Committed solid, in flight light, the rest faint; plain: ASCII only. Exactly width cells."""
    solid, light, rest = ("#", "+", ".") if plain else ("━", "╍", "─")
    committed = int(s.fraction * width)
    flying = min(width - committed, max(1, round(in_flight_fraction(s) * width))) if s.chunks_running else 0
    return Text.assemble(
        (solid * committed, "green"), (light * flying, "cyan"), (rest * (width - committed - flying), "bright_black"), no_wrap=True
    )


def picture(s: RunStatistics, rates: Rates, width: int, *, plain: bool = False) -> Text:
    """The live display: four to a dozen lines, none wider than width."""
    inner = max(10, width - 2)
    share = words.percent(s.fraction)
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
    parts = [f"run {s.run}", str(s.state), words.percent(s.fraction), *amounts(s), *speeds(rates), *troubles(s)]
    if wait := waits_for(s):
        parts.append(wait)
    return "; ".join(parts)
