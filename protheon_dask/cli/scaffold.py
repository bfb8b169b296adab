"""``protheon scaffold``: a pipeline to begin with, from a sample of the lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from protheon_dask import words
from protheon_dask.cli import output

if TYPE_CHECKING:
    from protheon_dask.pipelines.scaffold.make import Scaffold

ASKED_BYTES: Final = 1 << 30
"""At most so much is held where a person says how many lines."""


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE..")
@click.option("--table", metavar="S.T", help="The main table; left out, it is named after the first file.")
@click.option("--name", metavar="NAME", help="The pipeline's name; left out, the table's.")
@click.option(
    "--key", "keys", multiple=True, metavar="PATH", help="What tells lines apart, such as id or user.id; repeat it for a key of several."
)
@click.option("--lines", type=click.IntRange(min=1), help="Lines to look at.  [default: 10,000, of at most 32 MiB]")
def scaffold(paths: tuple[str, ...], table: str | None, name: str | None, keys: tuple[str, ...], lines: int | None) -> None:
    """Write a typed pipeline for a file of JSON lines, to be edited.

    FILE is what load takes: a file, a directory, a glob or an fsspec URL, compressed or not. The pipeline goes to stdout, what
    is worth telling of it to stderr.

    \b
    Example:  protheon scaffold events.jsonl.zst > events.py
              protheon load events.jsonl.zst --pipeline events.py
    """
    from protheon_dask.pipelines.jsonl import default_table
    from protheon_dask.pipelines.scaffold import make
    from protheon_dask.workspace import sampling, url
    from protheon_dask.workspace.source import resolve

    places = [url.absolute(path) for path in paths]
    sources = resolve(places)
    asked = sampling.N_LINES if lines is None else lines
    sampled = sampling.sample_sources(sources, asked, sampling.SAMPLE_BYTES if lines is None else ASKED_BYTES)
    name_of_first = url.shown(sources[0]).partition("?")[0].rstrip("/").rpartition("/")[2]
    others = f" and {words.counted(len(sources) - 1, 'more file')}" if len(sources) > 1 else ""
    origin = make.Origin(name_of_first + others, sampled.places, sampled.is_whole)
    made = make.scaffold(sampled.lines, origin, table=table or default_table(places), name=name, key=keys)
    output.emit(made.text.rstrip("\n"))
    tell(made)


def tell(made: Scaffold) -> None:
    """Say on stderr what the pipeline made of the sample, and what needs a look."""
    console = output.messages()
    rows = ", ".join(f"{n:,} in {table}" for table, n in made.n_rows.items())
    console.print(f"{words.counted(made.n_lines, 'line')} of the sample give these rows: {rows}", markup=False, soft_wrap=True)
    for note in made.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if made.n_rejected:
        rejected = f"{words.counted(made.n_rejected, 'sampled line')} would be rejected: {made.first_rejection}"
        console.print(f"note: {rejected}", markup=False, soft_wrap=True)
