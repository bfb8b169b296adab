"""``protheon doctor``: what is wrong with this machine, its database and its cluster, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.output import Listing, Shown
from protheon_dask.cli.verbs import database_option, effective_settings, json_option, resolved
from protheon_dask.run.exits import INCOMPLETE

if TYPE_CHECKING:
    from protheon_dask.run.doctor import Diagnosis, Finding
    from protheon_dask.run.vitals import Gathered, HostVitals

SHOWN = (
    Shown("level", "", keep=True),
    Shown("what", "what", keep=True),
    Shown("which", "which", most=24),
    Shown("told", "found, and what to do", text=str),
)
PIPED_WIDTH = 100
"""Findings are prose: in a file or a pager, too, they are read in lines of this length at most."""


@click.command()
@click.argument("master", required=False, metavar="[MASTER]")
@click.option("--bench", is_flag=True, help="Measure decompress, transform and copy on each host, for some seconds.")
@database_option
@json_option
def doctor(master: str | None, bench: bool, into: str | None, as_json: bool) -> None:
    """Look at this machine and its database, and at all hosts of a master; say what to do about each finding.

    MASTER is a master's gRPC address; left out, the one whose cluster this machine has joined, or that runs here, is asked.
    Nothing is changed, and what --bench copies goes into temporary tables. Exit code 1: something keeps runs from working.

    \b
    Example:  protheon doctor nuc:50051 --bench
    """
    from protheon_dask.run.api import joined_master
    from protheon_dask.run.examining import examine

    console = output.messages()
    effective = effective_settings()
    database = resolved(effective, into, is_asked=not (master or joined_master(effective.settings)))
    found, diagnosis = examine(
        effective,
        database,
        master,
        is_given=into is not None,
        wants_bench=bench,
        on_step=lambda what: None if as_json else console.print(f"looking at {what} ..", style="dim", markup=False),
    )
    if as_json:
        output.emit_json(as_value(found, diagnosis))
    else:
        draw(diagnosis)
    if not diagnosis.is_well:
        click.get_current_context().exit(INCOMPLETE)


def as_value(found: Gathered, diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis for programs, with what was measured."""
    return {
        "is_well": diagnosis.is_well,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "best_master": diagnosis.best_master or None,
        "because": diagnosis.because or None,
        "here": _host(found.here),
        "hosts": [_host(host) for host in found.hosts],
    }


def _host(host: HostVitals) -> dict[str, Any]:
    return {name: value for name, value in asdict(host).items() if value not in (None, "")}


def draw(diagnosis: Diagnosis) -> None:
    """A diagnosis for a person: what is wrong last, where the eye is."""
    order = ("ok", "warn", "fail")
    findings = sorted(diagnosis.findings, key=lambda finding: order.index(finding.level))
    rows = [{**asdict(finding), "told": told_of(finding)} for finding in findings]
    output.emit_drawing(Listing(output.filled(SHOWN, rows), rows), piped_width=PIPED_WIDTH)
    if diagnosis.best_master:
        output.emit_drawing(Text(f"\nbest as master: {diagnosis.best_master} ({diagnosis.because})"), piped_width=PIPED_WIDTH)
    counts = [sum(finding.level == level for finding in findings) for level in order]
    told = f"{counts[0]} well, {words.counted(counts[1], 'warning')}, {words.counted(counts[2], 'failure')}"
    output.emit_drawing(Text(f"\n{told}", style="bold"), wrap=False)


def told_of(finding: Finding) -> str:
    """What was found, and below it what to do."""
    return "\n".join(output.cell(text) for text in (finding.told, finding.to_do and f"> {finding.to_do}") if text)
