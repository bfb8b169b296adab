"""``protheon lab``: a cluster, its notebooks and JupyterLab, by one command."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.display import display
from protheon_dask.cli.verbs import effective_settings, resolved, workers_option

if TYPE_CHECKING:
    from protheon_dask.run.api import Copies

DIRECTORY: Final = "protheon-notebooks"
PANELS: Final = "panels at JupyterLab's side: Dask's icon at the left, then PROTHEON PROGRESS or another one; drag it to the right"
GONE: Final = "the command that ran the cluster has ended: notebooks start one of their own, the Dask panel has the old one's address"


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DIRECTORY,
    show_default=True,
    help="Where copies of the notebooks are made, and the lab begins.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Of JupyterLab; left out, 8888 or one of the next.")
@click.option("--no-browser", is_flag=True, help="Open no browser; the address is printed in any case.")
@workers_option
@click.option("--into", metavar="URL", help="The PostgreSQL of the cluster, or `embedded`; left out, the one that `protheon db url` names.")
def lab(directory: Path, port: int | None, no_browser: bool, workers: int | None, into: str | None) -> None:
    """Open the notebooks in JupyterLab, with a cluster that they use and its dashboard at their side.

    Notebooks that you have changed stay as they are. The cluster ends with the lab: Ctrl-C here, or File, Shut Down there.
    The data stay. A cluster that another command runs already is used, and goes on.

    \b
    Example:  protheon lab --dir my-notebooks
    """
    from protheon_dask.run import api

    api.check_lab()
    effective = effective_settings()
    database = resolved(effective, into)
    copies = api.copy_notebooks(directory)
    with ExitStack() as stack:
        with display(quiet=False) as progress:
            tell(copies)
            cluster = stack.enter_context(api.local(effective, database, workers=workers, on_event=progress.event))
            if workers is not None and not cluster.is_ours:
                progress.note("--workers is left aside: the master that runs already has workers of its own")
            started = stack.enter_context(
                api.lab(cluster, database, copies.directory, first=next(iter(copies.names), None), port=port, opens_browser=not no_browser)
            )
        was_told = False

        def check() -> None:
            nonlocal was_told
            cluster.check()
            if cluster.is_gone() and not was_told:
                was_told = True
                progress.note(GONE)

        page = api.dashboard_page(cluster.dashboard_link)
        with suppress(KeyboardInterrupt):
            output.messages().print(f"dashboard: {page}; in numbers: {cluster.http_link}/metrics", markup=False, soft_wrap=True)
            output.messages().print(PANELS, markup=False, soft_wrap=True)
            output.messages().print("JupyterLab, until Ctrl-C ends it and the cluster:", markup=False)
            output.emit(started.url)
            started.wait_ended(check)
            cluster.wait_others(progress.note)


def tell(copies: Copies) -> None:
    """Say where the notebooks are, and which were left as they are."""
    say = output.messages()
    made = [f"{words.count(len(names))} {verb}" for names, verb in ((copies.new, "new"), (copies.renewed, "renewed")) if names]
    say.print(f"notebooks: {copies.directory}" + (f" ({', '.join(made)})" if made else ""), markup=False, soft_wrap=True)
    if copies.kept:
        say.print(f"kept as you changed them: {', '.join(copies.kept)}", style="dim", markup=False, soft_wrap=True)
