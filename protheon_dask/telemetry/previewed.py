"""A preview as text and as HTML: what would be loaded, table by table, and what refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from html import escape
from typing import Any, Final

from protheon_dask.pipelines.preview import Preview, PreviewReject, PreviewTable
from protheon_dask.words import count, counted, visible

SHOWN_ROWS: Final = 50
"""Rows of a table, and rejects, that are drawn; the value has all."""
TEXT_CHARS: Final = 40
"""Of a value in a text: five columns fit into a line of a console."""
HTML_CHARS: Final = 200
REASON_CHARS: Final = 500
"""As many as a reason has at most (verdict.REASON_CHARACTERS): it is why one looks."""
NULL: Final = "NULL"
CELL: Final = "vertical-align: top; white-space: pre-wrap"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One table to be drawn: names of columns, and of each row the cells' texts. n_more: rows that are not drawn."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]  # columns whose cells are numbers
    n_more: int


def preview_text(preview: Preview) -> str:
    """A preview for a console: plain text, a table's rows one a line."""
    return "\n".join([headline(preview), rows_text(preview), "", *(f"note: {visible(note)}" for note in preview.notes)])


def rows_text(preview: Preview) -> str:
    """Its tables alone, each after an empty line."""
    lines = []
    for drawn in tables_of(preview, TEXT_CHARS):
        lines += ["", drawn.title]
        if drawn.rows:
            lines += _aligned(drawn)
        if drawn.n_more:
            lines.append(f".. and {counted(drawn.n_more, 'more row')}")
    return "\n".join(lines)


def preview_html(preview: Preview) -> str:
    """A preview for a notebook, which draws tables of this class as its own DataFrames; self-contained, and all of it escaped."""
    notes = "".join(f"<p><small>{escape(visible(note))}</small></p>" for note in preview.notes)
    return f'<div class="protheon-preview"><p><b>{escape(headline(preview))}</b></p>{rows_html(preview)}{notes}</div>'


def rows_html(preview: Preview) -> str:
    """Its tables alone."""
    parts = []
    for drawn in tables_of(preview, HTML_CHARS):
        parts.append(f"<p>{escape(drawn.title)}</p>")
        if drawn.rows:
            parts.append('<div style="overflow-x: auto"><table border="1" class="dataframe"><thead><tr>')
            heads = zip(drawn.columns, drawn.right, strict=True)
            parts += [f'<th style="text-align: {"right" if right else "left"}">{escape(column)}</th>' for column, right in heads]
            parts.append("</tr></thead><tbody>")
            for row in drawn.rows:
                cells = (
                    f'<td style="text-align: {"right" if right else "left"}; {CELL}"><bdi>{escape(cell)}</bdi></td>'
                    for cell, right in zip(row, drawn.right, strict=True)
                )
                parts.append(f"<tr>{''.join(cells)}</tr>")
            parts.append("</tbody></table></div>")
        if drawn.n_more:
            parts.append(f"<p>.. and {counted(drawn.n_more, 'more row')}</p>")
    return "".join(parts)


def headline(preview: Preview) -> str:
    """Which pipeline, on what, and what became of the lines."""
    name = f"{visible(preview.pipeline)} (version {visible(preview.version)})"
    path = visible(preview.path)
    if not preview.n_lines:
        return f"{name}: {path} has no lines"
    of = f"all {count(preview.n_lines)} lines" if preview.is_whole and preview.n_lines > 1 else f"the first {count(preview.n_lines)} lines"
    of = of if preview.n_lines > 1 else "the one line" if preview.is_whole else "the first line"
    counts = {"loaded": preview.loaded, "rejected": preview.rejected, "filtered": len(preview.filtered), "blank": len(preview.blank)}
    return f"{name} on {of} of {path}: {', '.join(f'{count(n)} {word}' for word, n in counts.items() if n)}"


def tables_of(preview: Preview, most: int) -> Iterator[Drawn]:
    """The tables of a preview: rows by table, then rejects, parts, and which lines were left out. most: characters of a value."""
    for table in preview.tables:
        yield _rows(table, most)
    if preview.rejects:
        yield _rejects(preview.rejects, most)
    for line_nos, word in ((preview.filtered, "filtered"), (preview.blank, "blank")):
        if line_nos:
            more = f" and {count(len(line_nos) - SHOWN_ROWS)} more" if len(line_nos) > SHOWN_ROWS else ""
            yield Drawn(f"{word}: line {', '.join(map(count, line_nos[:SHOWN_ROWS]))}{more}", (), (), (), 0)


def _rows(table: PreviewTable, most: int) -> Drawn:
    shown = list(zip(table.line_nos, table.rows, strict=True))[:SHOWN_ROWS]
    right = [True, *(_are_numbers([row[place] for _, row in shown]) for place in range(len(table.columns)))]
    return Drawn(
        title=f"{visible(table.table.name)}: {counted(len(table.rows), 'row')}",
        columns=["line", *map(visible, table.columns)],
        rows=[[count(line_no), *(cell(value, most) for value in row)] for line_no, row in shown],
        right=right,
        n_more=len(table.rows) - len(shown),
    )


def _rejects(rejects: Sequence[PreviewReject], most: int) -> Drawn:
    shown = rejects[:SHOWN_ROWS]
    has_parts, has_states = any(one.part is not None for one in rejects), any(one.sqlstate for one in rejects)
    names = ["line", *(["part"] if has_parts else []), "reason", *(["SQLSTATE"] if has_states else []), "the line begins"]
    n_lines = sum(1 for one in rejects if one.part is None)
    n_parts = len(rejects) - n_lines
    told = [counted(n_lines, "line")] * bool(n_lines) + [counted(n_parts, "part of a line", "parts of lines")] * bool(n_parts)
    return Drawn(
        title=f"rejected: {', '.join(told)}",
        columns=names,
        rows=[
            [
                count(one.line_no),
                *([visible(one.part or "")] if has_parts else []),
                visible(one.reason, REASON_CHARS),
                *([one.sqlstate or ""] if has_states else []),
                beginning(one.line, one.line_bytes, most),
            ]
            for one in shown
        ],
        right=[True, *[False] * (len(names) - 1)],
        n_more=len(rejects) - len(shown),
    )


def cell(value: Any, most: int) -> str:
    """A value as a person reads it, on one line, of most characters at most; NULL for none."""
    match value:
        case None:
            return NULL
        case str():
            text = value
        case bytes() | bytearray() | memoryview():
            text = "\\x" + bytes(value)[:most].hex()
        case datetime() | date() | time():
            text = value.isoformat()
        case _:
            text = _printed(value)
    return visible(text if len(text) <= most else text[: most - 1] + "…")


def _printed(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to print an int of more than 4,300 digits
        return f"an integer of {value.bit_length()} bits"


def beginning(line: bytes, n_bytes: int, most: int) -> str:
    """How a line begins, whatever its bytes are; n_bytes: of the whole line."""
    text = line.decode("utf-8", "backslashreplace")
    is_cut = len(text) > most or len(line) < n_bytes
    return visible(text[: most - 1] if is_cut else text) + ("…" if is_cut else "")


def _are_numbers(values: Sequence[Any]) -> bool:
    some = [value for value in values if value is not None]
    return bool(some) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in some)


def _aligned(drawn: Drawn) -> list[str]:
    rows = [drawn.columns, *drawn.rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(drawn.columns))]
    pads = [str.rjust if right else str.ljust for right in drawn.right]
    return ["  ".join(pad(text, width) for pad, text, width in zip(pads, row, widths, strict=True)).rstrip() for row in rows]
