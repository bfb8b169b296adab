"""``protheon load``: submit, wait, tell."""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import click

from protheon_dask import words
from protheon_dask.cli import exits, output
from protheon_dask.cli.display import Display, display
from protheon_dask.cli.summary import summary
from protheon_dask.cli.verbs import effective_settings, flag_of, json_option, resolved, workers_option
from protheon_dask.config import parse_reject_limit
from protheon_dask.errors import BrokerUnavailable, ConfigError, InvariantError, ProtheonError, TransientError
from protheon_dask.model import YOUR_PIPELINE, RunState
from protheon_dask.policy import RejectLimit
from protheon_dask.telemetry.statistics import RunStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protheon_dask.config import Effective
    from protheon_dask.run.api import Database, LocalCluster, Master

TAKE_OVERS: Final = 5
"""Clusters of other commands that may end below one command before that is its end too."""
TAKE_OVER_PAUSE_S: Final = 0.5
"""Between two of them: what belongs to the one that ended, its PostgreSQL too, ends within that, or is waited for."""


def chunk_lines_of(text: str) -> int | Literal["auto"]:
    """Read a number of lines, or ``auto``. Raises click.BadParameter."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither a number of lines nor auto")
    return int(text)


def reject_limit_of(text: str) -> RejectLimit:
    """Read ``1000`` or ``5%``. Raises click.BadParameter."""
    try:
        return parse_reject_limit(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH..")
@click.option("--pipeline", default="jsonl", show_default=True, metavar="NAME", help="jsonl, pgcr, module:name or file.py:name.")
@click.option("--table", metavar="S.T", help="The table that jsonl loads into; left out, it is named after the first path.")
@click.option("--into", metavar="URL", help="The PostgreSQL to load into; left out, the one that `protheon db url` names.")
@workers_option
@click.option(
    "--chunk-lines", type=chunk_lines_of, metavar="N|auto", help="Lines a chunk; auto suits the files' size and the number of workers."
)
@click.option("--again", is_flag=True, help="Load finished files once more, by the tables' conflict rules.")
@click.option("--replace", is_flag=True, help="Undo the old loads of these files first, where they can be undone, and load anew.")
@click.option("--checksum", is_flag=True, help="Keep checksums of the rows, for `runs verify --deep`.")
@click.option(
    "--reject-limit", type=reject_limit_of, metavar="N|P%", help="Rejected lines that the run bears; beyond, it pauses.  [default: 50%]"
)
@click.option("--detach", is_flag=True, help="Submit to the running `protheon master` and return at once; the run goes on there.")
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@json_option
def load(
    paths: tuple[str, ...],
    pipeline: str,
    table: str | None,
    into: str | None,
    workers: int | None,
    chunk_lines: int | Literal["auto"] | None,
    again: bool,
    replace: bool,
    checksum: bool,
    reject_limit: RejectLimit | None,
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Load line files into PostgreSQL, every line exactly once.

    PATH is a file, a directory, a glob or an fsspec URL; zstd, gzip, bzip2 and xz are recognised by their content.
    With no master running, a cluster on this machine is started for the time of the run. Interrupted or failed?
    Type the same again: what is loaded is skipped.

    \b
    Example:  protheon load reports/*.jsonl.zst --pipeline pgcr
    """
    from protheon_dask.run import api

    if again and replace:
        raise click.UsageError("--again keeps the rows of the old load, --replace deletes them first: give one of the two")
    if detach and workers is not None:
        raise click.UsageError("--workers is for a cluster that this command starts; with --detach the master has its own")
    typed = f"--pipeline {shlex.quote(pipeline)}" + (f" --table {shlex.quote(table)}" if table else "")
    effective = effective_settings()
    chosen = api.loading(
        paths,
        pipeline,
        table=table,
        chunk_lines=chunk_lines,
        reject_limit=reject_limit,
        again=again,
        replace=replace,
        checksum=checksum,
    )
    chosen.check_here()
    database = resolved(effective, into)
    if detach:
        with api.opened(effective, database) as url, display(quiet=quiet) as progress:
            master = api.running_master(effective, url)
            if master is None:
                raise ConfigError("--detach needs a master that goes on with the run: start `protheon master`, or leave it out")
            with master:
                if master.info().ephemeral:
                    raise ConfigError(
                        "--detach needs a master that stays, and the one that runs here ends with the command that started it: "
                        "leave it out, or start `protheon master` once that has ended"
                    )
                submitted = chosen.submit(master)
                tell([for_pasting(notice, typed, flag_of(into)) for notice in submitted.notices], progress)
                latest = master.get(submitted.run_id)
        if not (quiet or as_json) and latest.state in (RunState.QUEUED, RunState.RUNNING):
            output.emit(f"run {latest.run} is submitted: protheon runs watch {latest.run}{flag_of(into)}")
            return
        finish(latest, flag_of(into), quiet=quiet, as_json=as_json, pipeline=typed)
        return

    def ask(master: Master) -> tuple[int, Sequence[str]]:
        nonlocal chosen
        submitted = chosen.submit(master)
        chosen = chosen.to_go_on()
        return submitted.run_id, submitted.notices

    final = see_through(effective, database, ask, workers=workers, quiet=quiet, into=flag_of(into), pipeline=typed)
    assert final is not None, "a submission is a run"
    finish(final, flag_of(into), quiet=quiet, as_json=as_json, pipeline=typed)


def see_through(
    effective: Effective,
    database: Database,
    ask: Callable[[Master], tuple[int, Sequence[str]]],
    *,
    workers: int | None,
    quiet: bool,
    into: str,
    pipeline: str = YOUR_PIPELINE,
) -> RunStatistics | None:
    """Ask the master that runs, or one that is started for this, for a run, and show it until it ends or pauses.

    ask:      gives the run's number, or 0, and what the master had to say.
    into:     what the commands that are named for pasting must add.
    pipeline: the option that names the pipeline as it was typed.
    Returns None where the master had no run to make; it has said why.

    Where the cluster was another command's, and that command ends, another cluster is started, or found, and asked for the same again.
    """
    from protheon_dask.run import api

    run_id, notices = 0, list[str]()  # which was asked for last, and what was said

    def see(cluster: LocalCluster) -> RunStatistics | None:
        nonlocal run_id, notices
        progress.event(f"Dask's dashboard: {cluster.dashboard_link}; in numbers: {cluster.http_link}/metrics")
        if workers is not None and not cluster.is_ours:
            progress.note("--workers is left aside: the master that runs already has workers of its own")
        before = run_id
        if not before or api.was_interrupted(cluster.client.get(before)):  # else it has ended, paused, or been cancelled, by itself
            run_id, told = ask(cluster.client)
            tell([for_pasting(notice, pipeline, into) for notice in told], progress)
            notices += told
            if run_id in (0, before):  # there is no run to make, or none that it could go on with
                cluster.wait_others(progress.note)
                return cluster.client.get(before) if before else None
            if before:
                progress.note(f"run {before} goes on as run {run_id}")
        final = watch(cluster.client, run_id, progress, goes_on=not cluster.is_ours, database=into)
        for notice in final.notices:
            if notice not in notices:
                progress.note(for_pasting(notice, pipeline, into))  # found while the files were read
        if api.was_interrupted(final):
            cluster.wait_gone()
        cluster.wait_others(progress.note)
        return final

    with display(quiet=quiet) as progress:
        for n in range(TAKE_OVERS + 1):
            cluster: LocalCluster | None = None
            try:
                with api.local(effective, database, workers=workers, takes_over=n > 0, on_event=progress.event) as cluster:
                    final = see(cluster)
            except TransientError as error:  # of the cluster that ended; or nothing could be started beside what is still ending
                if cluster is not None and isinstance(error, BrokerUnavailable):
                    cluster.wait_gone()  # its command may be ending it at this moment
                if n == TAKE_OVERS or not (cluster.is_gone() if cluster is not None else n):
                    raise
                if cluster is not None and run_id:
                    with suppress(ProtheonError):  # its PostgreSQL may have ended with it
                        known = api.run_statistics(cluster.url, run_id)
                        if known.state is not RunState.RUNNING and not api.was_interrupted(known):
                            return known  # it had ended, or paused, by itself: only its last picture did not come
            else:
                if n == TAKE_OVERS or final is None or not api.was_interrupted(final) or not cluster.is_gone():
                    return final
            progress.note("the command that ran the cluster has ended: starting one of our own")
            time.sleep(TAKE_OVER_PAUSE_S)
    raise InvariantError("the last try returns or raises")


def for_pasting(notice: str, pipeline: str, into: str) -> str:
    """A notice whose command names the pipeline as it was typed, and the same database."""
    return notice.replace(YOUR_PIPELINE, f"{pipeline}{into}")


def tell(notices: Sequence[str], progress: Display) -> None:
    """Say what the master had to say."""
    for notice in notices:
        progress.note(notice)


def watch(
    master: Master,
    run_id: int,
    progress: Display,
    *,
    goes_on: bool,
    database: str = "",
    on_change: Callable[[RunStatistics], object] | None = None,
) -> RunStatistics:
    """Show the run until it ends or pauses, and return its last picture.

    goes_on: the cluster outlives this command; else an interrupted run is cancelled. on_change gets each picture after it was shown.
    Raises:  KeyboardInterrupt, after it has said what stays. BrokerUnavailable: the cluster, another command's, ended.
    """
    latest: RunStatistics | None = None
    try:
        for latest in master.watch(run_id):
            progress.show(latest)
            if on_change is not None:
                on_change(latest)
    except KeyboardInterrupt:
        if goes_on:
            look, end = (f"`protheon runs {verb} {run_id}{database}`" for verb in ("watch", "cancel"))
            progress.note(f"the master goes on with it: {look} looks on, {end} ends it")
        else:
            with suppress(ProtheonError):  # without the word, the next command finds the leases of processes that are gone
                latest = master.cancel(run_id)
        if latest is not None:
            progress.note(f"run {run_id}: {committed(latest)} stay loaded")
        raise
    if goes_on and (latest is None or latest.state is RunState.RUNNING):  # another command's, which ends
        raise BrokerUnavailable(f"run {run_id}: the master ended its report before the run did")
    if latest is None:
        raise InvariantError(f"run {run_id}: the master ended its report before the first word")
    return latest


def committed(s: RunStatistics) -> str:
    return f"{words.count(s.chunks_done)} of {words.counted(s.chunks, 'chunk')} with {words.counted(s.lines, 'line')}"


def finish(final: RunStatistics, database: str, *, quiet: bool, as_json: bool, pipeline: str = YOUR_PIPELINE) -> None:
    """Print how the run ended and leave with its exit code."""
    if as_json:
        output.emit_json(final.summary())
        if final.reason is not None:
            output.messages().print(f"run {final.run} is {final.state}: {final.reason}", markup=False, soft_wrap=True)
    elif not quiet:
        output.emit_drawing(*summary(final, database, pipeline))
    click.get_current_context().exit(exits.of_state(final.state))
