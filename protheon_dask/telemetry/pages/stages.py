"""Where the workers' time goes: seconds of each stage, and of waiting, as shares of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bokeh.core.properties import value
from bokeh.models import FactorRange, FixedTicker, Range1d
from bokeh.models.ui import UIElement
from bokeh.plotting import figure

from protheon_dask import words
from protheon_dask.model import STAGES as NAMES
from protheon_dask.telemetry import palette
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import FONT, HATCH, Panel, dress, hover, set_range
from protheon_dask.telemetry.palette import LIGHT

ORDER = (*NAMES[1:], NAMES[0])
"""As the work goes; waiting last."""
ROW_PX = 24
ROOM = 1.45  # of the axis, beside the longest bar, for its words
TICKS = [0, 20, 40, 60, 80, 100]
LEAST = 45.0  # end of the axis: two of its marks are always seen


class Stages(Panel):
    """One bar a stage, with its share and its seconds beside it."""

    title = "Where the time goes"

    def _make(self) -> Sequence[UIElement]:
        looks = [palette.STAGES[name] for name in ORDER]
        self._fixed: dict[str, list[str]] = {
            "stage": [look.label for look in looks],
            "color": [look.light for look in looks],
            "hatch": [look.hatch for look in looks],
        }
        self._shown: list[str] = []
        self.source.data = {**self._fixed, "share": [0.0] * len(looks), "words": [""] * len(looks)}
        self._x = Range1d(start=0, end=100)
        size = self._size(ROW_PX * len(looks) + 46)
        made = figure(
            x_axis_label="% of the workers' time in chunks",
            x_range=self._x,
            y_range=FactorRange(factors=[look.label for look in reversed(looks)]),
            toolbar_location=None,
            tools="",
            min_width=200,
            **size,
        )
        made.hbar(
            "stage",
            right="share",
            height=0.72,
            source=self.source,
            fill_color="color",
            line_color=None,
            hatch_pattern="hatch",
            **HATCH,
        )
        made.text(
            "share", "stage", "words", source=self.source, x_offset=6, text_baseline="middle", text_font=value(FONT), text_font_size="11px",
            text_color=LIGHT.text,
        )  # fmt: skip
        hover(made, [("stage", "@stage"), ("share", "@words")])
        dress(made)
        made.ygrid.visible = False
        made.yaxis.major_label_text_color = LIGHT.text
        made.xaxis.ticker = FixedTicker(ticks=TICKS)  # beyond 100 % is room for words, and nothing else
        return [made]

    def _draw(self) -> None:
        seen = self.view.seen
        if seen.run is None:
            self._tell(seen.picture.stage_seconds if seen.picture else {}, "of the last seconds")
        elif seen.story is None:
            self._tell({}, "")
        else:
            self._tell(seen.story.statistics.stage_seconds, f"of run {seen.run}'s chunks")

    def _tell(self, seconds: Mapping[str, float], whose: str) -> None:
        spent = [max(0.0, seconds.get(name, 0.0)) for name in ORDER]
        total = sum(spent)
        shares = [100 * one / total if total else 0.0 for one in spent]
        texts = [f"{share:.0f} % · {words.duration(one)}" if one else "" for share, one in zip(shares, spent, strict=True)]
        if texts != self._shown:
            self._shown = texts
            self.source.data = {**self._fixed, "share": shares, "words": texts}
            set_range(self._x, 0, max(LEAST, min(100.0, max(shares)) * ROOM))
        if not total:
            self.set_head(markup.figure("", "no chunk is worked on" if whose else "", ""))
            return
        top = max(range(len(ORDER)), key=spent.__getitem__)
        look = palette.STAGES[ORDER[top]]
        self.set_head(
            markup.figure("most:", f"{look.label} {shares[top]:.0f} %", "", markup.swatch(look)),
            markup.figure("all:", words.duration(total), whose),
        )
