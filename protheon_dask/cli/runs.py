"""``protheon runs``: list, show, watch, verify, report, pause, resume, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import RenderableType
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import exits, output
from protheon_dask.cli.display import display
from protheon_dask.cli.load import finish, reject_limit_of, see_through
from protheon_dask.cli.output import Shown
from protheon_dask.cli.progress import STATE_STYLES
from protheon_dask.cli.reports import count_text, emit_list, seconds_text
from protheon_dask.cli.summary import next_step, summary, to_bear_more
from protheon_dask.cli.verbs import (
    NounGroup,
    database_option,
    effective_settings,
    flag_of,
    json_option,
    limit_option,
    opened,
    resolved,
    run_argument,
    workers_option,
)
from protheon_dask.cli.verified import verified_drawing
from protheon_dask.errors import ConfigError
from protheon_dask.model import RunState
from protheon_dask.policy import RejectLimit
from protheon_dask.run.exits import DONE, INCOMPLETE
from protheon_dask.telemetry.ended import paused_at_limit
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.told import amounts

if TYPE_CHECKING:
    from protheon_dask.run.api import Master

TELL_EVERY_S: Final = 5.0

RUN_COLUMNS: Final = (
    Shown("run", "run", right=True, style="bold"),
    Shown("state", "state", keep=True),
    Shown("pipeline_name", "pipeline", keep=True, drop=2),
    Shown("files", "files", count_text, right=True, drop=4),
    Shown("chunks", "chunks", count_text, right=True, drop=5),
    Shown("lines", "lines", count_text, right=True),
    Shown("rejected", "rejects", count_text, right=True),
    Shown("gone_on_by", "gone on by run", style="yellow"),
    Shown("undone", "undone", count_text, right=True, style="yellow"),
    Shown("waits_for", "waits", style="magenta"),
    Shown("seconds", "time", seconds_text, right=True, drop=3),
    Shown("submitted_at", "submitted", keep=True, drop=1),
    Shown("paths", "paths"),
)


class RunsGroup(NounGroup):
    """``protheon runs 3`` is ``protheon runs show 3``: a list of runs takes no run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["show", *args] if args and args[0].isdigit() else args)


@click.group(cls=RunsGroup)
def runs() -> None:
    """The runs, newest first; with a number, that run.

    \b
    Example:  protheon runs
              protheon runs 3
    """


@runs.command("list")
@limit_option(20)
@database_option
@json_option
def runs_list(limit: int, into: str | None, as_json: bool) -> None:
    """List the runs.

    \b
    Example:  protheon runs list --limit 5 --json
    """
    from protheon_dask.run import api

    effective = effective_settings()
    with api.opened(effective, resolved(effective, into)) as url:
        rows = api.run_list(effective, url, limit + 1)
    emit_list(rows, RUN_COLUMNS, "no runs yet; begin with `protheon demo` or `protheon load PATH`", as_json=as_json, limit=limit)


@runs.command("show")
@run_argument
@database_option
@json_option
def runs_show(run: int | None, into: str | None, as_json: bool) -> None:
    """Show one run in numbers.

    \b
    Example:  protheon runs show
    """
    from protheon_dask.run import api

    effective = effective_settings()
    with api.opened(effective, resolved(effective, into)) as url:
        statistics = api.run_picture(effective, url, run)
    if as_json:
        output.emit_json({**statistics.summary(), "reason": statistics.reason})
        return
    output.emit_drawing(*summary(statistics, flag_of(into)), *stages(statistics))


def stages(s: RunStatistics) -> list[RenderableType]:
    """Where the attempts' seconds went, and what the run was told."""
    drawing: list[RenderableType] = []
    total_s = sum(s.stage_seconds.values())
    if total_s:
        spent = [f"{stage} {words.percent(seconds / total_s)}" for stage, seconds in s.stage_seconds.items() if seconds / total_s >= 0.01]
        drawing.append(Text(f"  time of its attempts: {', '.join(spent)}", style="dim"))
    if not s.state.is_final:
        drawing.append(Text("  " + "  ·  ".join(amounts(s))))
    drawing += [Text(f"  note: {notice}", style="dim") for notice in s.notices]
    return drawing


@runs.command("watch")
@run_argument
@database_option
@json_option
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
def runs_watch(run: int | None, into: str | None, as_json: bool, quiet: bool) -> None:
    """Watch a run until it ends or pauses. Ending the watch does not end the run.

    \b
    Example:  protheon runs watch 3
    """
    from protheon_dask.run import api

    effective = effective_settings()
    final: RunStatistics | None = None
    with api.opened(effective, resolved(effective, into)) as url, display(quiet=quiet) as progress:
        for final in api.watch_run(effective, url, run):
            progress.show(final)
    if final is None:
        return
    if as_json:
        output.emit_json(final.summary())
    elif not quiet:
        output.emit_drawing(*summary(final, flag_of(into)))
    click.get_current_context().exit(exits.of_state(final.state))


@runs.command("verify")
@run_argument
@database_option
@json_option
@click.option("--deep", is_flag=True, help="Read the tables too: are the rows there, as they were sent?")
def runs_verify(run: int | None, into: str | None, as_json: bool, deep: bool) -> None:
    """Prove from the ledger that every line and every row of a run is accounted for. Exit code 1: something differs.

    Left out, RUN is the latest. With --deep, each table that keeps provenance is read once, and its rows are counted by
    chunk; of loads made with --checksum their values are compared as well.

    \b
    Example:  protheon runs verify --deep
    """
    from protheon_dask.run import api

    with opened(into) as url:
        found = api.verify_run(url, run, deep=deep, on_rows=output.told_rows("read", TELL_EVERY_S))
    if as_json:
        verified = {"run": found.run_id, "verified": not found.findings, "checked": found.checked, "differs": list(found.differs)}
        told = {"findings": found.findings, "notes": found.notes}
        output.emit_json({**verified, **told, **({"tables": [asdict(table) for table in found.tables]} if deep else {})})
    else:
        output.emit_drawing(*verified_drawing(found))
    click.get_current_context().exit(INCOMPLETE if found.findings else DONE)


@runs.command("report")
@run_argument
@click.option("--output", "-o", "target", metavar="FILE|-", help="Where to; - is stdout.  [default: run-N.html]")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@database_option
@json_option
def runs_report(run: int | None, target: str | None, force: bool, into: str | None, as_json: bool) -> None:
    """Write the story of a run as one HTML file, which any browser shows, with no network and no Protheon.

    Every attempt on every host on a time line, with its stages and faults; rates; retries by cause, rejects by reason and dead
    letters; what bounded the run; and where each line and row went. Of a run that goes on: until now. With --json the story
    itself is printed, and no file is written.

    \b
    Example:  protheon runs report 3
              protheon runs report --output nightly.html --force
    """
    from protheon_dask.run import api

    if as_json and (target is not None or force):
        raise click.UsageError("--json prints the story and writes no file: leave --output and --force out")
    path = None if target in (None, "-") else Path(str(target))
    if path is not None:
        api.check_target(path, overwrite=force)
    with opened(into) as url:
        story = api.told_story(url, run)
    if as_json:
        output.emit_json(story.to_json())
        return
    if target == "-":
        output.emit(api.page_of(story).rstrip("\n"))
        return
    path = path or Path(f"run-{story.statistics.run}.html")
    api.check_target(path, overwrite=force)
    api.write_page(api.page_of(story), path, overwrite=force)
    output.messages().print(f"run {story.statistics.run}: its report is in {path}", markup=False, soft_wrap=True)


@runs.command("pause")
@run_argument
@click.option("--reason", default="", metavar="TEXT", help="Shown with the run wherever it is shown.")
@database_option
@json_option
def runs_pause(run: int | None, reason: str, into: str | None, as_json: bool) -> None:
    """Pause a run: chunks that are loading are finished, no other is begun, until it is resumed.

    \b
    Example:  protheon runs pause 3 --reason "the disk is filling up"
    """
    from protheon_dask.run import api

    effective = effective_settings()
    with api.opened(effective, resolved(effective, into)) as url:
        before = api.run_statistics(url, run)
        master = api.running_master(effective, url)
        if master is None:
            paused = api.pause_run(url, before.run, reason)
        else:
            with master:
                paused = master.pause(before.run, reason)
    if as_json:
        output.emit_json(paused.summary())
        return
    late = " had ended already" if before.state.is_final else ""
    text = Text.assemble(f"run {paused.run}{late}: ", (str(paused.state), STATE_STYLES.get(paused.state, "bold")))
    if before.state is RunState.PAUSED:
        text.append(" already")
    text.append(f": {paused.reason}" if paused.reason else "")
    output.emit_drawing(text)
    if paused.state is RunState.PAUSED:
        output.messages().print(f"to go on: {next_step(paused, flag_of(into))}", style="dim", markup=False, soft_wrap=True)


@runs.command("resume")
@run_argument
@click.option("--reject-limit", type=reject_limit_of, metavar="N|P%", help="Rejected lines that the run bears from now on.")
@workers_option
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@database_option
@json_option
def runs_resume(
    run: int | None, reject_limit: RejectLimit | None, workers: int | None, quiet: bool, into: str | None, as_json: bool
) -> None:
    """Go on with a paused run and watch it to its end; with no master running, a cluster is started as `load` does.

    \b
    Example:  protheon runs resume 3 --reject-limit 60%
    """
    from protheon_dask.run import api

    effective = effective_settings()
    database = resolved(effective, into)
    with api.opened(effective, database) as url:
        before = api.run_statistics(url, run)
        master = api.running_master(effective, url)
        if master is not None:
            master.close()
    if before.state.is_final:
        way_on = to_bear_more(before, flag_of(into)) if quiet or as_json else None  # else its summary says it
        told = f"run {before.run} had ended already{f'; {way_on}' if way_on else ''}"
        output.messages().print(told, markup=False, soft_wrap=True)
        finish(before, flag_of(into), quiet=quiet, as_json=as_json)
    if before.state is not RunState.PAUSED and master is None:
        told = f"run {before.run} is {before.state}, and no master runs here: resume is for paused runs"
        raise ConfigError(f"{told}; type its `protheon load` again to go on with its files")
    if paused_at_limit(before) and reject_limit is None:
        output.messages().print(
            f"run {before.run} paused at its reject limit, which stays as it is: it pauses again at the next line that is refused. "
            f"Raise it: {next_step(before, flag_of(into))}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )

    def ask(master: Master) -> tuple[int, Sequence[str]]:
        return master.resume(before.run, reject_limit).run, ()

    final = see_through(effective, database, ask, workers=workers, quiet=quiet, into=flag_of(into))
    if final is not None:
        finish(final, flag_of(into), quiet=quiet, as_json=as_json)


@runs.command("cancel")
@run_argument
@database_option
@json_option
def runs_cancel(run: int | None, into: str | None, as_json: bool) -> None:
    """Cancel a run. What it has loaded stays; typing its `protheon load` again goes on with it.

    \b
    Example:  protheon runs cancel 3
    """
    from protheon_dask.run import api

    effective = effective_settings()
    with api.opened(effective, resolved(effective, into)) as url:
        before = api.run_statistics(url, run)
        master = api.running_master(effective, url)
        if master is None:
            cancelled = api.cancel_run(url, before.run)
        else:
            with master:
                cancelled = master.cancel(before.run)
    if as_json:
        output.emit_json(cancelled.summary())
        return
    state = Text(str(cancelled.state), style=STATE_STYLES.get(cancelled.state, "bold"))
    late = " had ended already" if before.state.is_final else ""
    output.emit_drawing(
        Text.assemble(f"run {cancelled.run}{late}: ", state, f"; {words.counted(cancelled.lines, 'line stays', 'lines stay')} loaded")
    )
