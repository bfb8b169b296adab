"""The dead letters, chunks and tasks that gave up: list, show, replay, purge."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import exits, output
from protheon_dask.cli.display import Display, display
from protheon_dask.cli.load import tell, watch
from protheon_dask.cli.output import Shown
from protheon_dask.cli.reports import emit_list, seconds_text, took
from protheon_dask.cli.summary import mended_hint, summary
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
from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.model import STAGES, YOUR_PIPELINE, RunState, TaskState
from protheon_dask.pipelines.jsonl import NAME as JSONL
from protheon_dask.run.exits import DONE, INCOMPLETE
from protheon_dask.run.settings import workers_log
from protheon_dask.telemetry.statistics import RunStatistics

if TYPE_CHECKING:
    from protheon_dask.config import Effective
    from protheon_dask.run.api import Database, DeadLetters, LocalCluster

LOOK_EVERY_S: Final = 0.5
REASONS: Final = 10
"""Reasons that a list counts; `--json` and `protheon sql` have the rest."""
SHOWN_S: Final = 0.05
"""A stage that took less is left out of an attempt that is shown; --json has all."""

LETTER_COLUMNS: Final = (
    Shown("task_id", "task", right=True, style="bold"),
    Shown("load_id", "load", right=True, drop=4),
    Shown("chunk_no", "chunk", right=True),
    Shown("handler", "handler", lambda handler: "" if handler == "ingest" else str(handler), keep=True),
    Shown("attempt_no", "attempts", right=True, drop=3),
    Shown("died_at", "died", keep=True, drop=5),
    Shown("status", "status", lambda status: "" if status == "open" else str(status), keep=True),
    Shown("reason", "reason"),
    Shown("error_class", "error", drop=2),
    Shown("message", "message", style="yellow"),
)
ATTEMPT_COLUMNS: Final = (
    Shown("attempt_no", "try", right=True, style="bold"),
    Shown("host", "host", keep=True),
    Shown("worker", "worker", keep=True, drop=3),
    Shown("started_at", "started", keep=True, drop=2),
    Shown("seconds", "time", seconds_text, right=True),
    Shown("outcome", "outcome", keep=True),
    Shown("cost", "cost", keep=True, drop=1),
    Shown("stages", "stages", drop=4),
    Shown("said", "message", style="yellow"),
)

all_option = click.option("--all", "everything", is_flag=True, help="Those that were replayed or purged, too.")
queue_option = click.option("--queue", is_flag=True, help="Those of tasks without a run, instead of a run's.")
task_option = click.option(
    "--task", "task_ids", type=click.IntRange(min=1), multiple=True, metavar="N", help="This task's, of whatever run; may be repeated."
)


@click.group(cls=NounGroup)
def dlq() -> None:
    """The dead letters: chunks and tasks that gave up. Look at them, try them again, or give them up for good.

    \b
    Example:  protheon dlq
              protheon dlq show --task 12
              protheon dlq replay 3
    """


@dlq.command("list")
@run_argument
@queue_option
@limit_option(100)
@all_option
@database_option
@json_option
def dlq_list(run: int | None, queue: bool, limit: int, everything: bool, into: str | None, as_json: bool) -> None:
    """List what gave up of a run, newest first, and count the reasons; with --all what was replayed or purged, too.

    \b
    Example:  protheon dlq list 3 --json
    """
    from protheon_dask.run import api

    refuse_both(run, queue)
    with opened(into) as url:
        rows = api.list_dead_letters(url, run, queue=queue, everything=everything, limit=limit + 1)
        counted = [] if as_json else api.count_dead_letters(url, run, queue=queue)
    emit_list(rows, LETTER_COLUMNS, "no dead letters", as_json=as_json, limit=limit)
    if as_json:
        return
    told = reasons(counted, everything=everything)
    if rows:
        output.emit_drawing(*([Text("")] if told else []), *(Text(line, style="yellow") for line in told))
    tell_closed(counted, everything=everything)
    tell_next(rows, run, flag_of(into))


@dlq.command("show")
@run_argument
@click.option("--task", "task_id", type=click.IntRange(min=1), metavar="N", help="This task's, of whatever run, closed ones too.")
@queue_option
@limit_option(10)
@all_option
@database_option
@json_option
def dlq_show(run: int | None, task_id: int | None, queue: bool, limit: int, everything: bool, into: str | None, as_json: bool) -> None:
    """Show dead letters: the error, where its lines are, and every attempt with its host, its end and where its time went.

    \b
    Example:  protheon dlq show --task 12
    """
    from protheon_dask.run import api

    refuse_both(run, queue)
    with opened(into) as url:
        rows = api.show_dead_letters(url, run, task_id=task_id, queue=queue, everything=everything or task_id is not None, limit=limit + 1)
    if task_id is not None and not rows:
        raise NotFound(f"there is no dead letter of task {task_id}: `protheon dlq list RUN` names those that there are")
    there_are_more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        output.emit_json(rows)
        return
    if not rows:
        output.messages().print("no dead letters", markup=False)
    for row in rows:
        output.emit_drawing(*letter_card(row))
    if there_are_more:
        output.messages().print(f"the first {limit}; --limit shows more", style="dim", markup=False)
    tell_log(rows, workers_log(effective_settings().settings))
    tell_next(rows, run, flag_of(into))


def tell_log(rows: Sequence[Mapping[str, Any]], log: Path) -> None:
    """Name the log that has the exit codes and signals of worker processes that died, where there is one on this machine."""
    died = any(attempt["error_class"] == "WorkerDied" for row in rows for attempt in row["attempts"])
    if died and log.exists():
        told = f"exit codes, signals and last words of worker processes, of the latest cluster on this machine: {log}"
        output.messages().print(told, style="dim", markup=False, soft_wrap=True)


def refuse_both(run: int | None, queue: bool) -> None:
    """Raise click.UsageError where a run is named beside --queue."""
    if run is not None and queue:
        raise click.UsageError("--queue is for tasks without a run: leave out RUN, or --queue")


def reasons(counted: Sequence[Mapping[str, Any]], *, everything: bool) -> list[str]:
    """``3 x failed 5 times: ModuleNotFoundError``, the commonest first; everything: closed letters are counted, too."""
    sums: dict[str, int] = {}
    for row in counted:
        if everything or row["status"] == "open":
            reason = f"{row['reason']}: {row['error_class']}" if row["error_class"] else str(row["reason"])
            sums[reason] = sums.get(reason, 0) + row["n"]
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{words.count(n)} x {reason}" for reason, n in ranked[:REASONS]]
    rest = sum(n for _, n in ranked[REASONS:])
    return told + ([f"{words.count(rest)} x for other reasons"] if rest else [])


def tell_closed(counted: Sequence[Mapping[str, Any]], *, everything: bool) -> None:
    """Say what is left out of a list because it was replayed or purged."""
    sums = {status: sum(row["n"] for row in counted if row["status"] == status) for status in ("replayed", "purged")}
    parts = [f"{words.count(n)} {status}" for status, n in sums.items() if n]
    if parts and not everything:
        output.messages().print(f"left out: {', '.join(parts)} (--all shows them)", style="dim", markup=False, soft_wrap=True)


def tell_next(rows: Sequence[Mapping[str, Any]], run: int | None, database: str) -> None:
    """Name the commands that try open letters again, if there are any: under mended code, and under the code that they had."""
    dead = [row for row in rows if row["status"] == "open"]
    if not dead:
        return
    of_run = f" {run}" if run is not None else ""
    if len(dead) == 1 or dead[0]["load_id"] is None:
        of_run = "".join(f" --task {row['task_id']}" for row in dead[:1])
    told = f"once the cause is mended: protheon dlq replay{of_run}{database}"  # a function is found anew by its name
    if (chunks := [row for row in dead if row["load_id"] is not None]) and dead[0]["load_id"] is not None:
        typed = mended_hint([row["path"] for row in chunks], database, pipeline_option(chunks))
        output.messages().print(f"with mended code: {typed}", style="dim", markup=False, soft_wrap=True)
        told = f"once a cause outside of the code is mended: protheon dlq replay{of_run}{database}"
    output.messages().print(told, style="dim", markup=False, soft_wrap=True)


def pipeline_option(chunks: Sequence[Mapping[str, Any]]) -> str:
    """What names the pipeline of these letters in a command, as far as the ledger knows it.

    Code that came by value is known by its name alone; jsonl may have been given a table, which makes another load.
    """
    named = {(row["pipeline_reference"], row["pipeline_name"]) for row in chunks}
    reference, name = next(iter(named))
    if len(named) > 1 or reference == JSONL:
        return YOUR_PIPELINE
    return f"--pipeline {shlex.quote(reference or f'FILE.py:{name}')}"


def letter_card(row: Mapping[str, Any]) -> list[RenderableType]:
    """One dead letter for people: what, why, every attempt, and the traceback of the last one."""
    what = [f"task {row['task_id']}"]
    if row["chunk_no"] is not None:
        last_line = row["first_line"] + row["n_lines"] - 1
        end_bytes = row["byte_offset"] + row["raw_bytes"]
        what.append(
            f"chunk {words.count(row['chunk_no'])} of load {row['load_id']}, lines {words.count(row['first_line'])} to "
            f"{words.count(last_line)} of {row['path']}, bytes {words.count(row['byte_offset'])} to {words.count(end_bytes)}"
        )
    else:
        what.append(str(row["handler"]))
    closed = {
        "open": "",
        "replayed": f"; replayed {output.cell(row['replayed_at'])}",
        "purged": f"; purged {output.cell(row['purged_at'])}",
    }
    error = f"{row['error_class']}: {row['message']}" if row["error_class"] else str(row["message"] or "")
    sqlstate = f" (SQLSTATE {row['sqlstate']})" if row["sqlstate"] else ""
    attempts = [
        {
            **attempt,
            "seconds": took(attempt),
            "stages": stages_text(attempt),
            "said": f"{attempt['error_class']}: {attempt['message']}" if attempt["error_class"] else attempt["message"],
            "cost": "given back" if attempt["given_back"] else attempt["cost"],
        }
        for attempt in row["attempts"]
    ]
    drawing: list[RenderableType] = [
        Text(": ".join(what), style="bold"),
        Text(f"  dead {output.cell(row['died_at'])}: {row['reason']}{closed[row['status']]}"),
        Text(f"  {error}{sqlstate}", style="yellow"),
        Padding(output.Listing(output.filled(ATTEMPT_COLUMNS, attempts), attempts), (1, 0, 1, 2)),
    ]
    if row["traceback"]:
        drawing += [Padding(Text(row["traceback"].rstrip()), (0, 0, 1, 2))]
    return drawing


def stages_text(attempt: Mapping[str, Any]) -> str:
    """``fetch 0.2 s, copy 1.4 s``: where an attempt's time went, as far as it was measured."""
    spent = {stage: float(attempt[f"{stage}_s"]) for stage in STAGES}
    return ", ".join(f"{stage} {words.duration(seconds)}" for stage, seconds in spent.items() if seconds >= SHOWN_S)


@dlq.command("replay")
@run_argument
@task_option
@workers_option
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@database_option
@json_option
def dlq_replay(run: int | None, task_ids: tuple[int, ...], workers: int | None, quiet: bool, into: str | None, as_json: bool) -> None:
    """Try again what gave up, of a run or by task, with all its attempts before it, and watch it to its end.

    For causes outside of the pipeline: memory, a service, the database. The code is the one that came with the run: with a
    mended pipeline type the `protheon load` again instead, which takes up the dead chunks, too.
    A run that had ended over it goes on, and ends again; with no master running, a cluster is started as `load` does.
    What it loads, it loads once. Interrupted? The run can be gone on with by typing its `protheon load` again.

    \b
    Example:  protheon dlq replay 3
              protheon dlq replay --task 12 --task 13
    """
    from protheon_dask.run import api

    refuse_run_and_tasks(run, task_ids)
    effective = effective_settings()
    database = resolved(effective, into)
    with api.opened(effective, database) as url:
        before = None if task_ids else api.run_statistics(url, run)
        asked = 0 if before is None else before.run
        found = {row["task_id"] for row in api.list_dead_letters(url, asked, limit=1)} if asked else set(task_ids)
    if before is not None and not found and before.state.is_settled:
        tell_none(before, flag_of(into), as_json=as_json)
        click.get_current_context().exit(exits.of_state(before.state))
    finals, replayed, states = see_replayed(
        effective, database, lambda cluster: cluster.client.replay_dead_letters(asked, task_ids), workers, quiet, flag_of(into)
    )
    if asked and not found and not finals:  # its command had died, and the cluster that was started for this one has cancelled it
        with api.opened(effective, database) as url:
            after = api.run_statistics(url, asked)
        tell_none(after, flag_of(into), as_json=as_json)
        click.get_current_context().exit(exits.of_state(after.state))
    if as_json:
        told = {"tasks": replayed.task_ids, "runs": [final.summary() for final in finals], "notices": replayed.notices}
        output.emit_json({**told, "states": {str(task_id): str(state) for task_id, state in states.items()}})
    elif not quiet:
        for final in finals:
            output.emit_drawing(*summary(final, flag_of(into)))
        for task_id, state in states.items():
            output.emit(f"task {task_id}: {state}")
    codes = [exits.of_state(final.state) for final in finals]
    codes += [INCOMPLETE for state in states.values() if state in (TaskState.DEAD, TaskState.CANCELLED)]
    click.get_current_context().exit(max(codes, default=DONE))


def refuse_run_and_tasks(run: int | None, task_ids: Sequence[int]) -> None:
    """Raise click.UsageError where both are named."""
    if run is not None and task_ids:
        raise click.UsageError("a task is of one run already: leave out RUN, or --task")


def tell_none(before: RunStatistics, database: str, *, as_json: bool) -> None:
    """Say that no letter of a run is open, and what can be done about it all the same."""
    told = f"no dead letter of run {before.run} is open; it is {before.state}"
    if before.state is RunState.CANCELLED:
        told += ": type its `protheon load` again, which goes on with its files"
    if before.chunks_dead:
        told += f"; purged: {words.count(before.chunks_dead)}, which `protheon dlq replay --task N{database}` takes up again"
    if as_json:
        output.emit_json({"tasks": [], "runs": [], "notices": [told], "states": {}})
    else:
        output.messages().print(told, markup=False, soft_wrap=True)


def see_replayed(
    effective: Effective,
    database: Database,
    ask: Callable[[LocalCluster], DeadLetters],
    workers: int | None,
    quiet: bool,
    into: str,
) -> tuple[list[RunStatistics], DeadLetters, dict[int, TaskState]]:
    """Have letters replayed by the master that runs, or one that is started, and watch their runs, and tasks without one, to their end.

    Returns the runs as they ended, what was replayed, and the tasks without a run as they ended.
    """
    from protheon_dask.run import api

    with display(quiet=quiet) as progress, api.local(effective, database, workers=workers, on_event=progress.event) as cluster:
        if workers is not None and not cluster.is_ours:
            progress.note("--workers is left aside: the master that runs already has workers of its own")
        replayed = ask(cluster)
        if replayed.task_ids:
            under = ", under the code that came with its run" if replayed.run_ids else ""
            progress.note(f"ready again: {words.counted(len(replayed.task_ids), 'task')}{under}")
        tell(replayed.notices, progress)
        goes_on = not cluster.is_ours
        finals = [watch(cluster.client, run_id, progress, goes_on=goes_on, database=into) for run_id in replayed.run_ids]
        letters = [
            row for task_id in replayed.task_ids for row in api.list_dead_letters(cluster.url, task_id=task_id, everything=True, limit=1)
        ]
        alone = [row["task_id"] for row in letters if row["load_id"] is None]
        states = wait_tasks(cluster, alone, progress) if alone else {}
        cluster.wait_others(progress.note)
    return finals, replayed, states


def wait_tasks(cluster: LocalCluster, task_ids: Sequence[int], progress: Display) -> dict[int, TaskState]:
    """Wait until tasks without a run have ended, and return how."""
    from protheon_dask.run import api

    progress.event(f"waiting for {words.counted(len(task_ids), 'task')} of the general queue")
    while True:
        cluster.check()
        states = api.task_states(cluster.url, task_ids)
        if not {TaskState.READY, TaskState.RUNNING} & set(states.values()):
            return states
        time.sleep(LOOK_EVERY_S)


@dlq.command("purge")
@run_argument
@task_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_option
@json_option
def dlq_purge(run: int | None, task_ids: tuple[int, ...], yes: bool, into: str | None, as_json: bool) -> None:
    """Give up for good what is dead, of a run or by task: the bytes that were kept of it are deleted.

    The letters stay (list --all), and `runs verify` still says which lines are not loaded. One that was purged is
    taken up again by `dlq replay --task N`, as long as its source is there: its bytes are cut again. So it is by typing
    the `protheon load` again, which takes up all that is not loaded; its letter then reads `replayed`.

    \b
    Example:  protheon dlq purge --task 12
    """
    from protheon_dask.run import api

    refuse_run_and_tasks(run, task_ids)
    effective = effective_settings()
    with api.opened(effective, resolved(effective, into)) as url:
        asked = run or (None if task_ids else api.run_statistics(url).run)
        counted = api.count_dead_letters(url, asked) if asked else []
        n_open = sum(row["n"] for row in counted if row["status"] == "open") if asked else len(task_ids)
        if n_open and not yes and not confirmed(n_open, asked, task_ids, reasons(counted, everything=False)):
            output.messages().print("nothing was purged", markup=False)
            click.get_current_context().exit(INCOMPLETE)
        master = api.running_master(effective, url)
        if master is None:
            purged = api.purge_dead_letters(url, effective.settings, asked, task_ids)
        else:
            with master:
                purged = master.purge_dead_letters(asked or 0, task_ids)
    if as_json:
        output.emit_json({"tasks": purged.task_ids, "notices": purged.notices})
        return
    for notice in purged.notices:
        output.messages().print(notice, markup=False, soft_wrap=True)
    output.emit(
        f"{words.counted(len(purged.task_ids), 'dead letter')} purged" if purged.task_ids else "nothing to purge: no letter was open"
    )


def confirmed(n_open: int, run: int | None, task_ids: Sequence[int], told: Sequence[str]) -> bool:
    """Say what would be given up, and ask. Raises ConfigError where nobody can be asked; click.Abort on Ctrl-C."""
    of = f" of run {run}" if run is not None else f": {', '.join(f'task {task_id}' for task_id in task_ids)}"
    output.messages().print("\n".join([f"{words.counted(n_open, 'dead letter')}{of}", *(f"  {line}" for line in told)]), markup=False)
    if not sys.stdin.isatty():
        raise ConfigError("they would be given up, and nobody is there to be asked: add --yes")
    return click.confirm("Give them up for good?", err=True)
