"""``protheon sample``: reports that look real, in any number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protheon_dask.cli import output
from protheon_dask.cli.verbs import json_option

if TYPE_CHECKING:
    from protheon_dask.pipelines.sample import Shape


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--lines", required=True, type=click.IntRange(min=1), help="Lines to write.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Same seed, same lines.")
@click.option(
    "--shape", type=click.Choice(["dump", "api", "mixed"]), default="dump", show_default=True, help="Flat, as the API answers, or both."
)
@click.option("--bad", type=click.IntRange(min=0), default=0, show_default=True, help="Lines that are broken, in several ways.")
@json_option
def sample(out: Path, lines: int, seed: int, shape: Shape, bad: int, as_json: bool) -> None:
    """Write a file of made-up post game carnage reports.

    OUT ends in .jsonl.zst, .jsonl.gz or .jsonl. Players recur across the file, some of them often.

    \b
    Example:  protheon sample reports.jsonl.zst --lines 100000 --bad 10
    """
    from protheon_dask.pipelines.sample import write_sample

    if bad > lines:
        raise click.BadParameter(f"{bad} bad lines do not fit into {lines}", param_hint="--bad")
    if not out.parent.is_dir():
        raise click.BadParameter(f"there is no directory {out.parent}", param_hint="OUT")
    report = write_sample(out, lines, seed=seed, shape=shape, n_bad=bad)
    if as_json:
        output.emit_json(
            {
                "path": str(report.path),
                "lines": report.n_lines,
                "raw_bytes": report.raw_bytes,
                "stored_bytes": report.stored_bytes,
                "bad": [{"line": line.line_no, "kind": line.kind} for line in report.bad],
            }
        )
        return
    output.emit(str(report))
