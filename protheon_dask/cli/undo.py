"""``protheon undo``: delete the rows of a load again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.verbs import database_option, flag_of, json_option, opened
from protheon_dask.errors import ConfigError
from protheon_dask.run.exits import INCOMPLETE

if TYPE_CHECKING:
    from protheon_dask.run.api import UndonePlan

TELL_EVERY_S: Final = 2.0


def load_number(text: str) -> int:
    """Read the number of a load, from 1. Raises click.BadParameter."""
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is not the number of a load; `protheon files RUN` lists those of a run")
    return int(text)


@click.command()
@click.argument("load", type=load_number, metavar="LOAD")
@database_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def undo(load: int, into: str | None, yes: bool, as_json: bool) -> None:
    """Delete the rows of a load again, where no other load can depend on them.

    Else it says why not, and nothing is deleted. Replays of its rejects go with it. Interrupted? Type the same again.
    Afterwards its file can be loaded anew. LOAD is the number of a load, not of its run: `protheon files RUN` lists them.

    \b
    Example:  protheon undo 3
    """
    from protheon_dask.run import api

    with opened(into) as url:
        plan = api.plan_undo(url, load)
        plan.refuse()
        if plan.undone_at is None and not yes and not confirmed(plan):
            output.messages().print(f"nothing {'more ' if plan.began_at is not None else ''}was deleted", markup=False)
            click.get_current_context().exit(INCOMPLETE)
        undone = api.undo_load(url, load, output.told_rows("deleted", TELL_EVERY_S))
    missing = {table: n - undone.deleted_rows.get(table, 0) for table, n in plan.rows.items()}
    if as_json:
        told = {"deleted_rows": undone.deleted_rows, "missing_rows": {table: n for table, n in missing.items() if n > 0}}
        output.emit_json({"load": load, "undone_before": undone.was_undone_at, **told})
        return
    if undone.was_undone_at is not None:
        output.emit(f"{plan.name} was undone at {undone.was_undone_at:%Y-%m-%d %H:%M:%S} UTC: nothing is left to delete")
        return
    drawing = [Text.assemble(f"{plan.name}: ", ("undone", "bold green"))]
    drawing += [Text(f"  {words.counted(n_rows, 'row')} deleted from {table}") for table, n_rows in undone.deleted_rows.items()]
    drawing += [
        Text(f"  {words.counted(n, 'row')} of {table} not found: gone, replaced since, or in a table of another name", style="yellow")
        for table, n in missing.items()
        if n > 0
    ]
    drawing.append(Text(f"  its file can be loaded anew: protheon load ..{flag_of(into)}", style="dim"))
    output.emit_drawing(*drawing)


def confirmed(plan: UndonePlan) -> bool:
    """Say what would be deleted, and ask. Raises ConfigError where nobody can be asked; click.Abort on Ctrl-C."""
    goes_on = "; its undo was begun, and goes on" if plan.began_at is not None else ""
    told = [f"{plan.name}{goes_on}", *(f"  {words.counted(n_rows, 'row')} of {table}" for table, n_rows in plan.rows.items())]
    if plan.replay_ids:
        told.append(f"  with its replays, load {', '.join(map(str, plan.replay_ids))}")
    output.messages().print("\n".join(told), markup=False, soft_wrap=True)
    if not sys.stdin.isatty():
        raise ConfigError("these rows would be deleted for good, and nobody is there to be asked: add --yes")
    return click.confirm("Delete these rows?", err=True)
