"""Small pieces of HTML that panels are made of. Pure; whatever comes from outside is escaped here."""

from __future__ import annotations

from html import escape
from typing import Final

from protheon_dask.telemetry.palette import LIGHT, Look
from protheon_dask.words import visible

HATCH_PX: Final = 4  # width of a stripe

_STRIPES: Final = {  # of the hatches that Bokeh names, in CSS: what is drawn here looks as it does in the charts
    "blank": "",
    "right_diagonal_line": f"repeating-linear-gradient(-45deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX + 2}px)",
    "left_diagonal_line": f"repeating-linear-gradient(45deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX + 2}px)",
    "horizontal_line": f"repeating-linear-gradient(0deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX}px)",
    "vertical_line": f"repeating-linear-gradient(90deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX}px)",
    "diagonal_cross": f"repeating-linear-gradient(45deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX + 2}px),"
    f"repeating-linear-gradient(-45deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX + 2}px)",
    "cross": f"repeating-linear-gradient(0deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX + 1}px),"
    f"repeating-linear-gradient(90deg,#ffffff99 0 1.5px,transparent 1.5px {HATCH_PX + 1}px)",
    "dot": f"radial-gradient(#ffffffcc 1px,transparent 1.4px) 0 0/{HATCH_PX}px {HATCH_PX}px",
}

CSS: Final = f"""
:host {{ font: 13px/1.4 Helvetica, Arial, sans-serif; color: {LIGHT.text}; overflow-wrap: anywhere; }}
* {{ box-sizing: border-box; }}
.bk-clearfix {{ display: block; width: 100%; }}
h2 {{ font-size: 14px; font-weight: 600; margin: 0; white-space: nowrap; }}
.head {{ display: flex; flex-wrap: wrap; align-items: baseline; column-gap: 18px; row-gap: 2px; }}
.head .figures {{ display: flex; flex-wrap: wrap; column-gap: 16px; row-gap: 2px; }}
.figure b {{ font-variant-numeric: tabular-nums; }}
.unit, .muted {{ color: {LIGHT.muted}; }}
.warning {{ color: {LIGHT.warning}; }}
.bad {{ color: {LIGHT.bad}; }}
.good {{ color: {LIGHT.good}; }}
.cut {{ overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; }}
.note {{ color: {LIGHT.muted}; padding: 10px 0; }}
.swatch {{ display: inline-block; vertical-align: -1px; margin-right: 5px; border-radius: 2px; }}
svg {{ vertical-align: middle; margin-right: 5px; }}
.bar {{ display: flex; min-width: 0; overflow: hidden; height: 14px; border-radius: 3px; background: {LIGHT.faint}; }}
.bar > span {{ flex: none; height: 100%; }}
code {{ background: {LIGHT.panel}; padding: 1px 5px; border-radius: 3px; white-space: nowrap; }}
"""
"""Style of every piece: a shadow root has none of its page's."""


def text(value: object) -> str:
    """Escaped, for a text and for an attribute in double quotes; what is not seen is made visible, but for ends of lines."""
    told = str(value)
    if not told.isprintable():  # which nearly all are, and is cheap to ask
        told = "\n".join(map(visible, told.split("\n")))
    return escape(told)


def cut(value: str, shown: str | None = None, kind: str = "span") -> str:
    """A name that is cut where there is no room for it; the whole of it is its tooltip."""
    return f'<{kind} class="cut" title="{text(value)}">{text(shown if shown is not None else value)}</{kind}>'


def area(look: Look) -> str:
    """Colour and hatch as a value of CSS's background."""
    stripes = _STRIPES[look.hatch]
    return f"{stripes + ',' if stripes else ''}{look.light}"


def swatch(look: Look) -> str:
    """A small area as the charts draw it."""
    return f'<span class="swatch" style="width:12px;height:12px;background:{area(look)}"></span>'


def stroke(look: Look) -> str:
    """A small piece of line as the charts draw it."""
    dash = "" if look.dash == "solid" else f' stroke-dasharray="{look.dash}"'
    return (
        '<svg width="30" height="8" aria-hidden="true">'
        f'<line x1="0" y1="4" x2="30" y2="4" stroke="{look.light}" stroke-width="2.5"{dash}/></svg>'
    )


def figure(name: str, value: str, unit: str = "", sign: str = "", kind: str = "") -> str:
    """``—— lines 12,345 /s``: a sign, what it is, how much."""
    after = f' <span class="unit">{text(unit)}</span>' if unit else ""
    return f'<span class="figure {kind}" data-figure="{text(name)}">{sign}{text(name)} <b>{text(value)}</b>{after}</span>'


def head(title: str, *figures: str) -> str:
    """The first line of a panel: its title and its numbers."""
    shown = f'<div class="figures">{"".join(figures)}</div>' if figures else ""
    return f'<div class="head"><h2>{text(title)}</h2>{shown}</div>'


def note(words: str, kind: str = "") -> str:
    """A sentence where a drawing would be."""
    return f'<div class="note {kind}">{text(words)}</div>'


def bar(*parts: tuple[float, str], tooltip: str = "") -> str:
    """Parts beside each other: share within 0 and 1, and background."""
    drawn = "".join(
        f'<span style="width:{100 * max(0.0, min(1.0, share)):.3f}%;background:{paint}"></span>' for share, paint in parts if share
    )
    return f'<div class="bar" title="{text(tooltip)}">{drawn}</div>'
