"""``protheon master``: the scheduler and the broker of a cluster, until it is told to end."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from protheon_dask.cli import output
from protheon_dask.cli.display import display
from protheon_dask.cli.verbs import effective_settings, resolved
from protheon_dask.errors import ProtheonError


@click.command()
@click.option(
    "--bind",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDR",
    help="Where gRPC and Dask's scheduler listen; 0.0.0.0 is every address of this machine. HTTP and the dashboard stay on loopback.",
)
@click.option("--into", metavar="URL", help="The PostgreSQL to load into; left out, the one that `protheon db url` names.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Worker processes of this host; left out, by cores and memory on loopback; beyond it none: `protheon worker` brings some.",
)
@click.option(
    "--invite/--no-invite",
    default=None,
    help="Print a line that lets one more host join within the hour; left out, where a person sees it: on a terminal.",
)
@click.option(
    "--insecure", is_flag=True, help="Let other hosts in without certificates: anyone who reaches the ports runs code here, as this user."
)
def master(bind: str, into: str | None, workers: int | None, invite: bool | None, insecure: bool) -> None:
    """Run the master of a cluster: Dask's scheduler, the broker and the dashboards, and start again what dies.

    Commands of this machine find it by themselves. On other hosts `protheon worker`, `protheon doctor` and `protheon plan --master`
    take its address, and so does protheon.connect() in Python, which loads. Beyond loopback it speaks mutual TLS, which
    `protheon cluster init` sets up. Ctrl-C or SIGTERM end it in order, within a bounded time: runs that have not ended stay
    in the database, and go on when a master starts again.

    \b
    Example:  protheon cluster init
              protheon master --bind 0.0.0.0 --into postgresql://ann@nuc:5432/games
    """
    from protheon_dask.run import api

    effective = effective_settings()
    database = resolved(effective, into, is_asked=False)
    wish = api.MasterWish(bind=bind, workers=workers, is_insecure=insecure)
    if invite and not wish.is_open:
        raise click.UsageError("--invite lets another host join, which reaches no master on loopback: give --bind 0.0.0.0 too")
    if invite and insecure:
        raise click.UsageError("--invite is for hosts with certificates: with --insecure there are none")
    with display(quiet=False) as progress:
        if insecure and wish.is_open:
            progress.note("--insecure: anyone who reaches the ports of this master runs code here, as this user")
        with api.StandingMaster(effective, database, wish, on_event=progress.event) as standing:
            progress.settle()
            width = max(len(what) for what, _ in standing.whereabouts())
            for what, where in standing.whereabouts():
                output.emit(f"{what:<{width}}  {where}")
            if standing.tls is not None and wish.is_open and (sys.stdout.isatty() if invite is None else invite):
                try:
                    output.emit(f"{'to paste there':<{width}}  {standing.invite_line()}")
                except ProtheonError as exc:
                    if invite:  # else nobody asked, and the master stands
                        raise
                    progress.note(f"no line to paste: {exc}")
            progress.event("the master is ready; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                standing.wait()
