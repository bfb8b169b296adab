"""What ``protheon runs verify`` shows to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from protheon_dask import words

if TYPE_CHECKING:
    from protheon_dask.run.api import TableCheck, Verification


def verified_drawing(found: Verification) -> list[RenderableType]:
    """A headline that claims no more than was looked at; each check and table with what differs of it below; what to do, last."""
    unseen = [table for table in found.tables if table.why_not is not None and not table.findings]
    headline = Text.assemble(f"run {found.run_id}: ", ("differs", "bold red") if found.findings else ("verified", "bold green"))
    if unseen:
        of = words.count(len(unseen)) if len(unseen) == len(found.tables) else f"{len(unseen):,} of {len(found.tables):,}"
        were = "table was" if len(found.tables) == 1 else "tables was" if len(unseen) == 1 else "tables were"
        headline.append(f"{'' if found.findings else ' by the ledger'}; {of} {were} not looked at")
    lines = Table.grid(padding=(0, 2, 0, 0))  # what wraps goes on below its first word
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")

    def add(word: str, style: str, text: str, findings: Sequence[str] = ()) -> None:
        lines.add_row(Text(f"  {word}", style=style), Text(text))
        for finding in findings:
            lines.add_row("", Text(finding, style="red"))

    told = {finding for table in found.tables for finding in table.findings}
    for check in found.checked:
        findings = found.differs.get(check, ())
        below = [finding for finding in findings if finding not in told]
        told.update(below)
        add("differs" if findings else "ok", "red" if findings else "green", check, below)
    for table in found.tables:
        if table.checked:
            add("differs" if table.findings else "ok", "red" if table.findings else "green", read_text(table), table.findings)
        else:
            for finding in table.findings:
                add("differs", "red", finding)
    for note in found.notes:
        add("note", "dim", note)
    for finding in found.findings:
        if finding not in told:
            add("differs", "red", finding)
    drawing: list[RenderableType] = [headline, lines]
    if any(table.lacks_provenance for table in unseen):
        drawing.append(
            Text("to have rows looked at: declare their tables with provenance=True (8 bytes a row) before they are loaded", style="dim")
        )
    return drawing


def read_text(table: TableCheck) -> str:
    """``table public.t: 50,000 rows in 3 chunks, values of 3 compared``."""
    rows, chunks = words.counted(table.n_rows, "row"), words.counted(table.n_chunks, "chunk")
    return f"table {table.table}: {rows} of {chunks} counted, values of {words.count(table.n_summed)} compared"
