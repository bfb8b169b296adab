"""Pieces of HTML that cards are made of: self-contained, no script, and all that comes from outside escaped. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final
from urllib.parse import urlsplit

from protheon_dask.telemetry.palette import DARK, LIGHT, css_variables
from protheon_dask.words import visible

CARD: Final = "protheon-card"
_SCOPE: Final = f".{CARD}.{CARD}.{CARD}"
"""Stronger than what notebooks say of tables and links inside of an output."""
_DARK_FRONT_ENDS: Final = (
    'body[data-jp-theme-light="false"]',  # JupyterLab, Notebook 7, and nbconvert's page in their dark theme
    "body.vscode-dark",
    "body.vscode-high-contrast:not(.vscode-high-contrast-light)",
    'html[data-theme="dark"]',  # documentation
    'html[theme="dark"]',  # Colab
)
STRIPES: Final = "repeating-linear-gradient(135deg,var(--p-in-flight) 0 4px,var(--p-faint) 4px 7px)"

_RULES: Final = (
    ("", "box-sizing:border-box;max-width:64rem;margin:2px 0;padding:10px 14px;border:1px solid var(--p-border);border-radius:6px;"
     "background:var(--p-background);color:var(--p-text);font:13px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;"
     "overflow-wrap:anywhere;text-align:left"),
    (" *", "box-sizing:border-box"),
    (" a", "color:var(--p-link);text-decoration:underline"),
    (" code", "padding:0 4px;border:0;border-radius:3px;background:var(--p-panel);color:var(--p-text);"
     "font:12px/1.5 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap"),
    (" .p-line", "display:flex;flex-wrap:wrap;align-items:baseline;gap:0 18px;margin:2px 0"),
    (" .p-line>*", "min-width:0"),
    (" .p-title", "font-weight:600"),
    (" .p-state", "font-weight:600;white-space:nowrap"),
    (" .p-muted", "color:var(--p-muted)"),
    (" .p-warning", "color:var(--p-warning)"),
    (" .p-bad", "color:var(--p-bad)"),
    (" .p-good", "color:var(--p-good)"),
    (" .p-progress", "display:flex;align-items:center;gap:10px;margin:6px 0"),
    (" .p-bar", "display:flex;flex:1 1 auto;min-width:40px;height:12px;overflow:hidden;border-radius:3px;background:var(--p-faint)"),
    (" .p-bar>div", "flex:none;height:100%"),
    (" .p-committed", "background:var(--p-committed)"),
    (" .p-in-flight", f"background:{STRIPES}"),
    (" .p-percent", "flex:none;min-width:3.8em;text-align:right;font-weight:600;font-variant-numeric:tabular-nums"),
    (" ul", "margin:4px 0;padding:0 0 0 1.3em;list-style:disc"),
    (" li", "margin:0"),
    (" .p-wide", "overflow-x:auto;margin:6px 0"),
    (" table", "width:auto;margin:0;border:0;border-collapse:collapse;table-layout:auto;font:inherit;color:inherit"),
    (" tr", "background:transparent;border:0"),
    (" tbody tr:hover", "background:var(--p-panel)"),
    (" th", "padding:2px 14px 2px 0;border:0;border-bottom:1px solid var(--p-border);background:transparent;color:var(--p-muted);"
     "font-weight:400;text-align:left;white-space:nowrap;vertical-align:bottom"),
    (" td", "padding:2px 14px 2px 0;border:0;text-align:left;vertical-align:top"),
    (" .p-name", "display:block;width:max-content;max-width:12rem"),  # a table is scrolled before its words are chopped
    (" .p-number", "text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"),
    (" .p-small", "display:flex;width:7rem;gap:6px;margin:0;align-items:center"),
)  # fmt: skip

STYLE: Final = "".join(
    (
        "<style>",
        f"{_SCOPE}{{{css_variables(LIGHT)}color-scheme:light}}",
        *(f"{front_end} {_SCOPE}{{{css_variables(DARK)}color-scheme:dark}}" for front_end in _DARK_FRONT_ENDS),
        *(f"{_SCOPE}{selector}{{{declarations}}}" for selector, declarations in _RULES),
        "</style>",
    )
)
"""Of every card, with the card: a notebook keeps no style but an output's own. On a page without it a card is still read in order."""


def card(label: str, parts: Iterable[str]) -> str:
    """A whole card. label: what it is, for a screen reader; parts: HTML."""
    return f'{STYLE}<div class="{CARD}" role="group" aria-label="{text(label)}">{"".join(parts)}</div>'


def text(value: str, most: int | None = None) -> str:
    """Foreign text on one line, for an element or for an attribute in double quotes. most: characters at most."""
    return escape(visible(value, most))


def foreign(value: str, most: int, css: str = "") -> str:
    """A name or message, whose letters turn around nothing beside it; the whole of it is its tooltip where it is cut."""
    title = f' title="{text(value, 20 * most)}"' if len(value) > most else ""
    return f'<bdi dir="ltr"{_class(css)}{title}>{text(value, most)}</bdi>'


def line(parts: Iterable[str], css: str = "") -> str:
    """Parts, as HTML, side by side, and below each other where they do not fit."""
    return f'<div class="p-line{f" {css}" if css else ""}">{"".join(f"<span>{part}</span>" for part in parts)}</div>'


def listed(items: Iterable[str], css: str = "") -> str:
    """A list of HTML; nothing where there are no items."""
    drawn = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul{_class(css)}>{drawn}</ul>" if drawn else ""


def link(address: str | None, words: str) -> str:
    """A link to another page, beside the notebook. Nothing but a page of the web is linked to."""
    try:
        scheme = urlsplit(address or "").scheme
    except ValueError:  # it is no address
        return ""
    if not address or scheme not in ("http", "https"):
        return ""
    return f'<a href="{text(address)}" target="_blank" rel="noopener noreferrer">{escape(words)}</a>'


def bar(committed: float, in_flight: float, percent: str, label: str, css: str = "p-progress") -> str:
    """Committed solid, in flight striped, the rest faint; fractions of the whole within 0 and 1."""
    solid, light = f"width:{100 * committed:.2f}%", f"width:{100 * in_flight:.2f}%"
    value = f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{int(100 * committed)}"'
    return (
        f'<div class="{css}"><div class="p-bar" role="progressbar" {value} aria-label="{text(label)}">'
        f'<div class="p-committed" style="{solid}"></div><div class="p-in-flight" style="{light}"></div></div>'
        f'<span class="p-percent">{escape(percent)}</span></div>'
    )


def table(heads: Iterable[tuple[str, bool]], rows: Iterable[Iterable[str]]) -> str:
    """A table. heads: each column's name, and whether it is of numbers; rows: cells as HTML."""
    columns = list(heads)
    numbers = [' class="p-number"' if is_number else "" for _, is_number in columns]
    head = "".join(f'<th scope="col"{css}>{escape(name)}</th>' for (name, _), css in zip(columns, numbers, strict=True))
    body = "".join(f"<tr>{''.join(f'<td{css}>{cell}</td>' for css, cell in zip(numbers, row, strict=True))}</tr>" for row in rows)
    return f'<div class="p-wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _class(css: str) -> str:
    return f' class="{css}"' if css else ""
