"""``protheon preview``: a pipeline on the first lines of a file, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.output import Listing, Shown
from protheon_dask.cli.verbs import json_option
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.verdict import reason_of

if TYPE_CHECKING:
    from protheon_dask.run.preview import Preview


@click.command()
@click.argument("path")
@click.option("--pipeline", default="jsonl", show_default=True, metavar="NAME", help="pgcr, jsonl, module:name or file.py:name.")
@click.option("--table", metavar="S.T", help="The table that jsonl would load into.")
@click.option("-n", "--lines", "n", type=click.IntRange(min=1), default=5, show_default=True, help="Lines from the first one on.")
@json_option
def preview(path: str, pipeline: str, table: str | None, n: int, as_json: bool) -> None:
    """Run a pipeline here on the first lines of a file, and show its rows and what it refuses. Nothing is loaded.

    PATH is what load takes: a file, a directory, a glob or an fsspec URL, compressed or not. PostgreSQL is not asked; what that
    leaves open is told on stderr.

    \b
    Example:  protheon preview orders.jsonl.zst --pipeline orders.py:orders -n 20
    """
    from protheon_dask.run.preview import preview as previewed

    try:
        made = previewed(pipeline, path, n, table=table)
    except (MemoryError, ImportError) as error:  # of the author's code, which says of no line that it is at fault
        told = "no line is at fault, and a chunk of these lines would fail"
        raise ConfigError(f"pipeline {pipeline}: {reason_of(error, None)}; {told}") from error
    if as_json:
        output.emit_json(as_value(made))
        return
    draw(made)


def as_value(made: Preview) -> dict[str, Any]:
    """A preview for programs: each row as an object with its line."""
    return {
        "pipeline": made.pipeline,
        "version": made.version,
        "path": made.path,
        "lines": made.n_lines,
        "is_whole": made.is_whole,
        "loaded": made.loaded,
        "rejected": made.rejected,
        "filtered": made.filtered,
        "blank": made.blank,
        "tables": [
            {
                "table": table.table.name,
                "rows": [
                    {"line": line_no, "values": dict(zip(table.columns, row, strict=True))}
                    for line_no, row in zip(table.line_nos, table.rows, strict=True)
                ],
            }
            for table in made.tables
        ],
        "rejects": [
            {
                "line": reject.line_no,
                "byte_offset": reject.byte_offset,
                "part": reject.part,
                "reason": reject.reason,
                "sqlstate": reject.sqlstate,
                "table_name": reject.table,
                "raw": reject.line,
                "raw_bytes": reject.line_bytes,
            }
            for reject in made.rejects
        ],
        "notes": made.notes,
    }


def draw(made: Preview) -> None:
    """A preview for a person: as wide as the terminal is."""
    from protheon_dask.telemetry.previewed import TEXT_CHARS, headline, tables_of

    output.emit_drawing(Text(headline(made), style="bold"), wrap=False)
    for drawn in tables_of(made, TEXT_CHARS):
        output.emit_drawing(Text(f"\n{drawn.title}"), wrap=False)
        if drawn.rows:
            shown = [Shown(str(at), name, right=right) for at, (name, right) in enumerate(zip(drawn.columns, drawn.right, strict=True))]
            output.emit_drawing(Listing(shown, [{str(at): text for at, text in enumerate(row)} for row in drawn.rows]))
        if drawn.n_more:
            output.emit_drawing(Text(f".. and {words.counted(drawn.n_more, 'more row')}; --json has all"))
    for note in made.notes:
        output.messages().print(f"note: {words.visible(note)}", style="dim", markup=False, soft_wrap=True)
