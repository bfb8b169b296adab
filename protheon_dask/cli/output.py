"""What goes to stdout and to stderr: one JSON document, or tables that fit the terminal. A reader that has had enough is no error."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from time import monotonic
from typing import Any
from uuid import UUID

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from protheon_dask import words

PIPE_WIDTH = 100_000  # not a terminal: nothing is cut or wrapped
WRAPPED_WIDTH = 20  # a text that wraps is still read at this width
GAP = 3  # cells between two columns


def to_json(value: Any) -> Any:
    """A JSON value for what a ledger's row holds.

    Times are RFC 3339 in UTC; bytes are base64 under their name and ``_base64``; spans of time are seconds;
    a numeric is a number where that is exact to 15 digits, else text; so are NaN and the infinities, which JSON lacks.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime():
            return words.moment(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return _number(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {_json_name(str(name), item): to_json(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(item) for item in value]
        case _:
            return str(value)


def _json_name(name: str, value: Any) -> str:
    return f"{name}_base64" if isinstance(value, bytes | bytearray | memoryview) else name


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    return float(value) if len(value.as_tuple().digits) <= 15 else str(value)


def dumps(value: Any) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, indent=2)


def emit(text: str) -> None:
    """Write text and a line end to stdout.

    Guarantee: a closed pipe is silent and does not change how the command ends; the rest goes nowhere.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        end_stdout()


def end_stdout() -> None:
    """Nobody reads stdout any more: the rest goes nowhere, and the interpreter's own flush at its end does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def emit_json(value: Any) -> None:
    emit(dumps(value))


def messages() -> Console:
    """The console on stderr: progress and messages. Honours NO_COLOR."""
    return Console(file=sys.stderr, stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def told_rows(verb: str, every_s: float) -> Callable[[str, int], None]:
    """A function that tells on stderr, at most once in every_s, how many rows of which table have been deleted or read."""
    last_at = monotonic()

    def tell(table: str, n_rows: int) -> None:
        nonlocal last_at
        if monotonic() - last_at > every_s:
            last_at = monotonic()
            messages().print(f"table {table}: {words.counted(n_rows, 'row')} {verb}", style="dim", markup=False)

    return tell


def render(drawing: RenderableType, *, width: int | None, color: bool) -> str:
    """Draw into a string, without trailing blanks; width None: as wide as it wants to be."""
    sink = io.StringIO()
    console = Console(
        file=sink, force_terminal=color, no_color=None if color else True, width=width or PIPE_WIDTH, highlight=False, legacy_windows=False
    )
    console.print(drawing)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def emit_drawing(*drawings: RenderableType, wrap: bool = True, piped_width: int | None = None) -> None:
    """Draw to stdout: in colour and to its width on a terminal, plain and uncut elsewhere.

    wrap: False leaves long lines to the terminal, so that a command is copied as it is.
    piped_width: columns where stdout is no terminal, for what is prose.
    """
    width = terminal_width()
    for drawing in drawings:
        emit(render(drawing, width=(width or piped_width) if wrap else None, color=width is not None))


def terminal_width() -> int | None:
    """Columns of the terminal on stdout; None where it is none."""
    return Console(file=sys.stdout).width if sys.stdout.isatty() else None


@dataclass(frozen=True, slots=True)
class Shown:
    """One column of a table for people: a row's name of it, the heading, and how its value reads."""

    name: str
    heading: str
    text: Callable[[Any], str] | None = None
    right: bool = False
    style: str = ""
    keep: bool = False  # never wrapped: names and times
    most: int = 0  # cells at most, then it wraps; 0: as wide as there is room
    drop: int = 0  # left out of a terminal that is too narrow, the highest first; 0: never


def cell(value: Any) -> str:
    """A value in a table: one line, None as nothing."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime() if value.tzinfo is not None:
            return words.clock(value)
        case bytes() | memoryview():
            return "\\x" + bytes(value).hex()
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case dict():
            return json.dumps(to_json(value), ensure_ascii=False)
        case UUID() | Decimal() | int() | float():
            return str(value)
        case _:
            return str(value).replace("\n", "\\n").replace("\r", "\\r")


def table(shown: Sequence[Shown], rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of the columns that are asked for, in that order."""
    drawing = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in shown:
        drawing.add_column(
            column.heading,
            justify="right" if column.right else "left",
            style=column.style,
            no_wrap=column.keep or column.right,
            max_width=column.most or None,
            overflow="fold",
        )
    for row in rows:
        drawing.add_row(*(Text(text_of(column, row)) for column in shown))
    return drawing


def text_of(column: Shown, row: Mapping[str, Any]) -> str:
    value = row[column.name]
    return column.text(value) if column.text else cell(value)


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows for people, drawn to the width there is: a number is never cut.

    A table; else a table without the columns that may go, and a word on which; else each row as a block of its names and values.
    """

    shown: Sequence[Shown]
    rows: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = fitting(self.shown, self.rows, options.max_width)
        if columns is None:
            for number, row in enumerate(self.rows, start=1):
                yield Text(f"- {number} -" if len(self.rows) > 1 else "", style="dim")
                for column in self.shown:
                    yield Text.assemble((f"{column.heading}: ", "dim"), text_of(column, row), overflow="fold")
            return
        yield table(columns, self.rows)
        if left_out := [column.heading for column in self.shown if column not in columns]:
            yield Text(f"{words.counted(len(left_out), 'column')} left out: {', '.join(left_out)}; --json has all", style="dim")


def filled(shown: Sequence[Shown], rows: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """The columns that have something to say."""
    return [column for column in shown if any(text_of(column, row) for row in rows)]


def fitting(shown: Sequence[Shown], rows: Sequence[Mapping[str, Any]], width: int) -> list[Shown] | None:
    """The columns that fit into width, the ones that may be dropped left out as far as needed; None: the others do not fit either."""
    columns = list(shown)
    needs = {column.name: _least_width(column, rows) for column in columns}
    while sum(needs[column.name] for column in columns) + GAP * (len(columns) - 1) > width:
        last = max(columns, key=lambda column: column.drop)
        if not last.drop:
            return None
        columns.remove(last)
    return columns


def _least_width(column: Shown, rows: Sequence[Mapping[str, Any]]) -> int:
    widest = max(cell_len(text) for text in (column.heading, *(text_of(column, row) for row in rows)))
    return widest if column.keep or column.right else min(widest, WRAPPED_WIDTH)


def record(pairs: Sequence[tuple[str, RenderableType]]) -> Table:
    """Names and values, one a line."""
    drawing = Table.grid(padding=(0, 2))
    drawing.add_column(style="dim", no_wrap=True)
    drawing.add_column(overflow="fold")
    for name, value in pairs:
        drawing.add_row(name, value)
    return drawing
