"""What lies ready: chunks cut and not yet taken, their files against the quota, how long the oldest waits, hosts that get no work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from bokeh.models import Range1d
from bokeh.models.ui import UIElement

from protheon_dask import words
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import Panel, Stream, hover, show_height, show_live_window
from protheon_dask.telemetry.palette import FLOWS, LIGHT
from protheon_dask.telemetry.picture import HostAside
from protheon_dask.telemetry.series import KEPT
from protheon_dask.words import visible

COLUMNS: Final = ("at", "look_ahead", "oldest_s")
NEARLY_FULL: Final = 0.9
MOST_HOSTS: Final = 8
LONGEST_HOST: Final = 40  # characters
LOOK: Final = FLOWS["lines_per_s"]  # solid: it is alone in its chart
LEAST: Final = 4.0  # height of the chart: so that its marks are whole numbers


class Workspace(Panel):
    """A gauge of the quota, and the look-ahead over time. Always the cluster's, also where a run was chosen."""

    title = "Look-ahead and workspace"
    css = f"""
.gauge {{ display: grid; grid-template-columns: auto 1fr auto; gap: 8px; align-items: center; margin-top: 4px; }}
.aside {{ margin: 4px 0 0; padding: 4px 8px; border-left: 3px solid {LIGHT.warning}; background: {LIGHT.panel}; }}
.aside .row {{ display: flex; gap: 8px; }}
"""

    def _make(self) -> Sequence[UIElement]:
        self._stream = Stream(self.source, COLUMNS, KEPT)
        self._gauge = self.words()
        self._height = Range1d(start=0, end=LEAST)
        self._chart = self.chart("chunks", "0,0", height_px=206, y_range=self._height)
        x_range = self._chart.x_range
        assert isinstance(x_range, Range1d)
        self._time = x_range
        self._chart.line("at", "look_ahead", source=self.source, line_color=LOOK.light, line_width=2)
        hover(
            self._chart,
            [("time", "@at{%H:%M:%S}"), ("look-ahead", "@look_ahead{0,0} chunks"), ("oldest waits", "@oldest_s{0,0.0} s")],
            mode="vline",
            formatters={"@at": "datetime"},
        )
        return [self._gauge, self._chart]

    def _draw(self) -> None:
        seen = self.view.seen
        new = seen.series.since(self._stream.begin(seen.series))
        self._stream.append(
            [sample.at for sample in new],
            {
                "at": [1e3 * sample.at for sample in new],
                "look_ahead": [float(sample.look_ahead_chunks) for sample in new],
                "oldest_s": [sample.oldest_ready_s or 0.0 for sample in new],
            },
        )
        picture = seen.picture
        if picture is None:
            self.set_head()
            return
        first = next(iter(seen.series), None)
        show_live_window(self._time, first.at if first else picture.at, picture.at)
        show_height(self._height, self._stream.highest(("look_ahead",), self._time), LEAST)
        oldest = "none waits" if picture.oldest_ready_s is None else words.duration(picture.oldest_ready_s)
        self.set_head(
            markup.figure("look-ahead", words.count(picture.look_ahead_chunks), "chunks", markup.stroke(LOOK)),
            markup.figure("oldest that is ready", oldest),
            *([] if seen.run is None else ['<span class="unit">of the cluster, now</span>']),
        )
        quota = picture.workspace_quota_bytes
        filled = picture.workspace_bytes / quota if quota > 0 else 0.0
        kind = "warning" if filled >= NEARLY_FULL else ""
        gauge = (
            '<div class="gauge"><span>workspace</span>'
            f"{markup.bar((filled, LIGHT.warning if kind else LIGHT.committed), tooltip='files of ready and running chunks')}"
            f'<span class="{kind}" data-figure="workspace">{words.size(picture.workspace_bytes)} of {words.size(quota)}'
            f"{' · nearly full' if kind else ''}</span></div>"
        )
        self.set_words(self._gauge, gauge + hosts_aside(picture.hosts_aside))


def hosts_aside(hosts: Sequence[HostAside]) -> str:
    """Which hosts get no work for now, why, and until when."""
    if not hosts:
        return ""
    rows = "".join(
        f'<div class="row"><b class="cut" style="flex:0 1 auto" title="{markup.text(one.host)}">'
        f"{markup.text(visible(one.host, LONGEST_HOST))}</b>"
        f'<span class="unit" style="flex:none">until {datetime.fromtimestamp(one.until_at, UTC):%H:%M:%S} UTC</span>'
        f"{markup.cut(one.reason)}</div>"
        for one in hosts[:MOST_HOSTS]
    )
    more = f'<div class="muted">and {words.count(len(hosts) - MOST_HOSTS)} more</div>' if len(hosts) > MOST_HOSTS else ""
    verb = "host is" if len(hosts) == 1 else "hosts are"
    return f'<div class="aside"><span class="warning">{len(hosts)} {verb} set aside</span>{rows}{more}</div>'
