"""What ``protheon runs verify`` shows to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from protheon_dask.telemetry import verdict

if TYPE_CHECKING:
    from protheon_dask.run.api import Verification

STYLES: Final = {verdict.OK: "green", verdict.DIFFERS: "red", verdict.NOTE: "dim"}


def verified_drawing(found: Verification) -> list[RenderableType]:
    """A headline that claims no more than was looked at; each check and table with what differs of it below; what to do, last."""
    style = "bold red" if found.findings else "bold green"
    headline = Text.assemble(f"run {found.run_id}: ", (verdict.verdict(found), style), verdict.reach(found))
    lines = Table.grid(padding=(0, 2, 0, 0))  # what wraps goes on below its first word
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for line in verdict.lines(found):
        lines.add_row(Text(f"  {line.word}", style=STYLES[line.word]), Text(line.text))
        for finding in line.findings:
            lines.add_row("", Text(finding, style="red"))
    drawing: list[RenderableType] = [headline, lines]
    if told := verdict.what_to_do(found):
        drawing.append(Text(told, style="dim"))
    return drawing
