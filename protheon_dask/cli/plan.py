"""``protheon plan``: what a load would be, before it is one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.output import Listing, Shown
from protheon_dask.cli.verbs import effective_settings, json_option, resolved
from protheon_dask.errors import ConfigError, ProtheonError
from protheon_dask.pipelines.verdict import reason_of

if TYPE_CHECKING:
    from protheon_dask.run.plan import LoadPlan

HOURS_FROM_S = 600.0
"""A plan is told in hours, too, from here on: those of two archives are added and compared."""
SHOWN = (
    Shown("path", "file"),
    Shown("format", "format", keep=True, drop=2),
    Shown("stored_bytes", "size", text=words.size, right=True),
    Shown("raw_bytes", "raw", text=words.size, right=True, drop=3),
    Shown("lines_told", "lines", right=True),
    Shown("left_lines", "to load", text=words.count, right=True),
    Shown("chunks", "chunks", text=words.count, right=True, drop=1),
    Shown("state", "state", keep=True),
    Shown("told", ""),
)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH..")
@click.option("--pipeline", default="jsonl", show_default=True, metavar="NAME", help="jsonl, pgcr, module:name or file.py:name.")
@click.option("--table", metavar="S.T", help="The table that jsonl would load into.")
@click.option("--into", metavar="URL", help="The PostgreSQL to load into; left out, the one that `protheon db url` names.")
@click.option(
    "--master",
    metavar="MASTER",
    help="Plan for its workers and by its ledger: a master's gRPC address; left out, the one here, if it runs.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Plan for so many worker processes.")
@click.option("--bench", is_flag=True, help="Measure each host of the cluster, for some seconds: where no run tells how quick it is.")
@json_option
def plan(
    paths: tuple[str, ...],
    pipeline: str,
    table: str | None,
    into: str | None,
    master: str | None,
    workers: int | None,
    bench: bool,
    as_json: bool,
) -> None:
    """Say what a load of these files would be: sizes, what is loaded already, lines, chunks, hours, and what bounds it.

    The files are looked at here. Hours are those of the last run of the same pipeline; without one they are measured on a sample of
    the lines, without the database. Each host counts as quick as it was in that run, or as --bench finds it; one of which nothing is
    known is named, and what it was taken for. Nothing is written to the database.

    \b
    Example:  protheon plan reports/*.jsonl.zst --pipeline pgcr
    """
    from protheon_dask.run import planning
    from protheon_dask.run.plan import plan as planned

    console = output.messages()
    effective = effective_settings()
    with ExitStack() as stack:
        wish = stack.enter_context(
            planning.wish_for(
                effective,
                resolved(effective, into, is_asked=master is None),
                paths,
                pipeline,
                table=table,
                master=master,
                workers=workers,
                is_given=into is not None,
                wants_bench=bench,
                on_step=lambda what: None if as_json else console.print(f"looking at {what} ..", style="dim", markup=False),
            )
        )
        try:
            made = planned(wish)
        except ProtheonError:
            raise
        except (MemoryError, ImportError) as error:  # of the author's code, which says of no line that it is at fault
            raise ConfigError(f"pipeline {pipeline}: {reason_of(error, None)}; a chunk of these lines would fail") from error
    if as_json:
        output.emit_json(as_value(made))
    else:
        draw(made)


def as_value(made: LoadPlan) -> dict[str, Any]:
    """A plan for programs."""
    return {
        **asdict(made),
        "left_lines": made.left_lines,
        "left_raw_bytes": made.left_raw_bytes,
        "seconds": made.seconds,
        "hours": None if made.seconds is None else made.seconds / 3_600,
    }


def draw(made: LoadPlan) -> None:
    """A plan for a person."""
    rows = [{**asdict(file), "lines_told": ("" if file.is_exact else "about ") + words.count(file.lines)} for file in made.files]
    output.emit_drawing(Listing(output.filled(SHOWN, rows), rows))
    chunks = sum(file.chunks for file in made.files)
    pairs = [
        ("pipeline", f"{made.pipeline}, version {made.version}"),
        ("to load", f"{words.counted(made.left_lines, 'line')} in {words.counted(chunks, 'chunk')}, {words.size(made.left_raw_bytes)} raw"),
        ("workers", words.count(made.n_workers) + (f", of the master at {made.master}" if made.master else "")),
    ]
    if made.ledger:
        pairs.insert(2, ("looked up in", made.ledger))
    for host in made.rate.speeds.hosts if made.rate is not None and made.rate.speeds is not None else ():
        each = f"{words.size(round(host.raw_bytes_per_s))}/s raw each, by {host.known_by}"
        pairs.append((f"  {host.host}", f"{words.counted(host.n_workers, 'worker')}, {each}"))
    if made.seconds is not None and made.rate is not None:
        least = "at least " if made.rate.is_least else "about "
        hours = f" ({made.seconds / 3_600:.2g} hours)" if made.seconds >= HOURS_FROM_S else ""
        pairs.append(("takes", f"{least}{words.duration(made.seconds)}{hours}"))
        pairs.append(("known by", made.rate.source))
        if made.rate.bound:
            pairs.append(("bottleneck", made.rate.bound))
    if made.workspace_bytes:
        free, quota = words.size(made.free_bytes), words.size(made.quota_bytes)
        pairs.append(("workspace", f"up to {words.size(made.workspace_bytes)} of chunk files; {free} are free, the quota is {quota}"))
    output.emit_drawing(output.record([("", ""), *pairs]))
    for note in made.notes:
        output.messages().print(f"note: {words.visible(note)}", style="dim", markup=False, soft_wrap=True)
