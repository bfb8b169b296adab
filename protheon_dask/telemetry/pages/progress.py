"""Runs: how far each has come, how fast it is, when it will be done, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bokeh.models.ui import UIElement

from protheon_dask import words
from protheon_dask.telemetry import told
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import Panel
from protheon_dask.telemetry.pages.view import Seen
from protheon_dask.telemetry.palette import LIGHT, RUN_STATES
from protheon_dask.telemetry.statistics import RunStatistics

MOST_SHOWN: Final = 8
STRIPES: Final = f"repeating-linear-gradient(-45deg,{LIGHT.in_flight} 0 3px,{LIGHT.faint} 3px 6px)"
NOTHING_YET: Final = (
    '<div class="note">Nothing was loaded yet. Type <code>protheon load FILES</code>, '
    'or in a notebook <code>cluster.load("FILES")</code>; it shows here within a second.</div>'
)


class Progress(Panel):
    """A bar a run: committed solid, in flight striped, never backwards."""

    title = "Runs"
    css = f"""
.run {{ margin-top: 7px; }}
.line {{ display: flex; gap: 10px; justify-content: space-between; align-items: baseline; }}
.line > .cut {{ flex: 0 1 auto; font-weight: 600; }}
.state {{ flex: none; font-weight: 600; }}
.bar {{ height: 16px; margin: 3px 0; border: 1px solid {LIGHT.border}; }}
.facts {{ display: flex; flex-wrap: wrap; column-gap: 16px; color: {LIGHT.muted}; font-variant-numeric: tabular-nums; }}
.facts b {{ color: {LIGHT.text}; }}
.key {{ display: inline-block; width: 14px; height: 10px; border-radius: 2px; margin-right: 5px; border: 1px solid {LIGHT.border}; }}
"""

    def _make(self) -> Sequence[UIElement]:
        self._body = self.words()
        return [self._body]

    def _draw(self) -> None:
        seen = self.view.seen
        runs = seen.picture.runs if seen.picture else ()
        if seen.run is not None:
            chosen = seen.statistics
            if chosen is None:
                self.set_head()
                self.set_words(self._body, markup.note(seen.waits_for_story or ""))
                return
            runs = (chosen,)
        self.source.data = {"run": [run.run for run in runs], "fraction": [seen.fraction(run) for run in runs]}
        if not runs:
            self.set_head()
            self.set_words(self._body, NOTHING_YET if seen.picture else "")
            return
        live = sum(not run.state.is_final for run in runs)
        figures = [] if seen.run is not None else [markup.figure("at work or waiting", words.count(live))]
        self.set_head(*figures, _key("committed", LIGHT.committed), _key("in flight", STRIPES))
        left = len(runs) - MOST_SHOWN
        more = markup.note(f"and {words.counted(left, 'older run')}: choose one above, or protheon runs list") if left > 0 else ""
        self.set_words(self._body, "".join(one_run(run, seen) for run in runs[:MOST_SHOWN]) + more)


def one_run(run: RunStatistics, seen: Seen) -> str:
    """Name and state, bar, and facts of one run."""
    rates, fraction = seen.rates(run), seen.fraction(run)
    look = RUN_STATES[run.state]
    facts = [f"<b>{words.percent(fraction)}</b>", *map(markup.text, told.amounts(run)), *map(markup.text, told.speeds(rates))]
    if run.state.is_final:
        facts.append(f"took {words.duration(run.seconds)}")
    facts += [f'<span class="warning">{markup.text(part)}</span>' for part in told.troubles(run)]
    why = told.waits_for(run) or (told.why(run) if run.state.is_final else None)
    waits = f'<div class="cut muted" title="{markup.text(why)}">{markup.text(why)}</div>' if why else ""
    paths = "\n".join(run.paths[:20]) + (f"\n.. and {len(run.paths) - 20} more" if len(run.paths) > 20 else "")
    in_flight = min(told.in_flight_fraction(run), 1.0 - fraction)
    return (
        f'<div class="run" data-run="{run.run}"><div class="line">{markup.cut(paths, told.what(run))}'
        f'<span class="state" style="color:{look.light}">{look.symbol} {look.label}</span></div>'
        f"{markup.bar((fraction, LIGHT.committed), (in_flight, STRIPES), tooltip=f'{words.percent(fraction)} committed')}"
        f'<div class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</div>{waits}</div>'
    )


def _key(label: str, paint: str) -> str:
    return f'<span class="unit"><span class="key" style="background:{paint}"></span>{label}</span>'
