"""The reports: runs, files, chunks, attempts, rejects, dead letters. They read the ledger; no master need run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from protheon_dask.cli import exits, figures, output
from protheon_dask.cli.display import display
from protheon_dask.cli.output import Shown
from protheon_dask.cli.progress import STATE_STYLES, amounts
from protheon_dask.cli.summary import summary
from protheon_dask.cli.verbs import (
    NounGroup,
    database_option,
    effective_settings,
    json_option,
    limit_option,
    opened,
    resolved,
    run_argument,
)
from protheon_dask.model import RunState
from protheon_dask.run.exits import DONE, INCOMPLETE
from protheon_dask.telemetry.statistics import RunStatistics

LOOK_EVERY_S: Final = 0.5
RAW_SHOWN: Final = 300  # characters of a line that `rejects show` prints


def _count(value: int | None) -> str:
    return "" if value is None else figures.count(value)


def _seconds(value: float | None) -> str:
    return "" if value is None else figures.duration(value)


def _size(value: int | None) -> str:
    return "" if value is None else figures.size(value)


RUN_COLUMNS: Final = (
    Shown("run", "run", right=True, style="bold"),
    Shown("state", "state", keep=True),
    Shown("pipeline_name", "pipeline", keep=True),
    Shown("files", "files", _count, right=True),
    Shown("chunks", "chunks", _count, right=True),
    Shown("lines", "lines", _count, right=True),
    Shown("rejected", "rejects", _count, right=True),
    Shown("seconds", "time", _seconds, right=True),
    Shown("submitted_at", "submitted", keep=True),
    Shown("paths", "paths"),
)
FILE_COLUMNS: Final = (
    Shown("load_id", "load", right=True, style="bold"),
    Shown("joined", "joined", keep=True),
    Shown("split_state", "cut", keep=True),
    Shown("chunks_done", "done", _count, right=True),
    Shown("chunks", "chunks", _count, right=True),
    Shown("lines", "lines", _count, right=True),
    Shown("rejected", "rejects", _count, right=True),
    Shown("path", "path"),
    Shown("split_message", "message", style="yellow"),
)
CHUNK_COLUMNS: Final = (
    Shown("load_id", "load", right=True),
    Shown("chunk_no", "chunk", right=True, style="bold"),
    Shown("task_id", "task", right=True),
    Shown("state", "state", keep=True),
    Shown("first_line", "first line", _count, right=True),
    Shown("n_lines", "lines", _count, right=True),
    Shown("raw_bytes", "raw", _size, right=True),
    Shown("stored_bytes", "stored", _size, right=True),
    Shown("attempt_no", "attempts", right=True),
)
ATTEMPT_COLUMNS: Final = (
    Shown("task_id", "task", right=True, style="bold"),
    Shown("attempt_no", "try", right=True),
    Shown("worker", "worker", keep=True),
    Shown("started_at", "started", keep=True),
    Shown("seconds", "time", _seconds, right=True),
    Shown("outcome", "outcome", keep=True),
    Shown("loaded", "loaded", _count, right=True),
    Shown("rejected", "rejects", _count, right=True),
    Shown("message", "message", style="yellow"),
)
REJECT_COLUMNS: Final = (
    Shown("id", "reject", right=True, style="bold"),
    Shown("load_id", "load", right=True),
    Shown("line", "line", _count, right=True),
    Shown("part", "part"),
    Shown("reason", "reason"),
    Shown("table_name", "table", keep=True),
)
DEAD_COLUMNS: Final = (
    Shown("task_id", "task", right=True, style="bold"),
    Shown("load_id", "load", right=True),
    Shown("chunk_no", "chunk", right=True),
    Shown("attempt_no", "attempts", right=True),
    Shown("died_at", "died", keep=True),
    Shown("reason", "reason"),
    Shown("message", "message", style="yellow"),
)


def read(name: str, run: int | None, into: str | None, **filters: Any) -> list[dict[str, Any]]:
    """Rows of one report."""
    from protheon_dask.run import api

    with opened(into) as url:
        return api.report(url, name, run, **filters)


def emit_list(rows: Sequence[Mapping[str, Any]], shown: Sequence[Shown], nothing: str, *, as_json: bool, limit: int | None = None) -> None:
    """Print a list: an array of objects, or a table, or a word that there is nothing."""
    if as_json:
        output.emit_json(rows)
    elif not rows:
        output.messages().print(nothing, markup=False)
    else:
        output.emit_drawing(output.table(shown, rows))
        if limit is not None and len(rows) >= limit:
            output.messages().print(f"the first {limit}; --limit shows more", style="dim", markup=False)


@click.group(cls=NounGroup)
def runs() -> None:
    """The runs, newest first.

    \b
    Example:  protheon runs
              protheon runs show 3
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
    rows = read("runs", None, into, limit=limit)
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

    with opened(into) as url:
        statistics = api.run_statistics(url, run)
    if as_json:
        output.emit_json(statistics.summary())
        return
    output.emit_drawing(*summary(statistics), *stages(statistics))


def stages(s: RunStatistics) -> list[RenderableType]:
    """Where the attempts' seconds went, and what the run was told."""
    drawing: list[RenderableType] = []
    total_s = sum(s.stage_seconds.values())
    if total_s:
        spent = [f"{stage} {figures.percent(seconds / total_s)}" for stage, seconds in s.stage_seconds.items() if seconds / total_s >= 0.01]
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

    final: RunStatistics | None = None
    with opened(into) as url, display(quiet=quiet) as progress:
        for final in changes(url, run):
            progress.show(final)
    if final is None:
        return
    if as_json:
        output.emit_json(final.summary())
    elif not quiet:
        output.emit_drawing(*summary(final))
    click.get_current_context().exit(exits.of_state(final.state))


def changes(url: str, run: int | None) -> Iterator[RunStatistics]:
    """The run at once and whenever it changed, until it is final or paused."""
    from protheon_dask.run import api

    statistics = api.run_statistics(url, run)
    yield statistics
    while not (statistics.state.is_final or statistics.state is RunState.PAUSED):
        time.sleep(LOOK_EVERY_S)
        latest = api.run_statistics(url, statistics.run)
        if latest != statistics:
            statistics = latest
            yield statistics


@runs.command("verify")
@run_argument
@database_option
@json_option
def runs_verify(run: int | None, into: str | None, as_json: bool) -> None:
    """Prove from the ledger that every line and every row is accounted for. Exit code 1: something differs.

    \b
    Example:  protheon runs verify
    """
    from protheon_dask.run import api

    with opened(into) as url:
        found = api.verify_run(url, run)
    if as_json:
        output.emit_json({"run": found.run_id, "verified": not found.findings, "checked": found.checked, "findings": found.findings})
    else:
        mark, style = ("differs", "bold red") if found.findings else ("verified", "bold green")
        drawing = [Text.assemble(f"run {found.run_id}: ", (mark, style))]
        drawing += [Text.assemble("  ", ("ok  ", "green"), check) for check in found.checked]
        drawing += [Text.assemble("  ", ("not ", "red"), finding) for finding in found.findings]
        output.emit_drawing(*drawing)
    click.get_current_context().exit(INCOMPLETE if found.findings else DONE)


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
        master = api.running_master(effective, url)
        if master is None:
            cancelled = api.cancel_run(url, run)
        else:
            with master:
                cancelled = master.cancel(run or master.get().run)
    if as_json:
        output.emit_json(cancelled.summary())
        return
    state = Text(str(cancelled.state), style=STATE_STYLES.get(cancelled.state, "bold"))
    output.emit_drawing(Text.assemble(f"run {cancelled.run}: ", state, f"; {figures.counted(cancelled.lines, 'line')} stay loaded"))


@click.group(cls=NounGroup)
def files() -> None:
    """The files of a run and their load numbers.

    \b
    Example:  protheon files 3
    """


@files.command("list")
@run_argument
@database_option
@json_option
def files_list(run: int | None, into: str | None, as_json: bool) -> None:
    """List the files of a run.

    \b
    Example:  protheon files list --json
    """
    emit_list(read("files", run, into), FILE_COLUMNS, "the run has no files", as_json=as_json)


@click.group(cls=NounGroup)
def chunks() -> None:
    """The chunks of a run.

    \b
    Example:  protheon chunks 3
    """


@chunks.command("list")
@run_argument
@limit_option(200)
@database_option
@json_option
def chunks_list(run: int | None, limit: int, into: str | None, as_json: bool) -> None:
    """List the chunks of a run.

    \b
    Example:  protheon chunks --limit 1000 --json
    """
    emit_list(read("chunks", run, into, limit=limit), CHUNK_COLUMNS, "the run has no chunks", as_json=as_json, limit=limit)


@click.group(cls=NounGroup)
def attempts() -> None:
    """The attempts of a run: who tried what, and how it ended.

    \b
    Example:  protheon attempts 3
    """


@attempts.command("list")
@run_argument
@limit_option(200)
@database_option
@json_option
def attempts_list(run: int | None, limit: int, into: str | None, as_json: bool) -> None:
    """List the attempts of a run, newest first.

    \b
    Example:  protheon attempts --json
    """
    rows = read("attempts", run, into, limit=limit)
    timed = rows if as_json else [{**row, "seconds": took(row)} for row in rows]
    emit_list(timed, ATTEMPT_COLUMNS, "the run has no attempts", as_json=as_json, limit=limit)


def took(attempt: Mapping[str, Any]) -> float | None:
    """Seconds of an attempt that has ended."""
    return None if attempt["ended_at"] is None else (attempt["ended_at"] - attempt["started_at"]).total_seconds()


@click.group(cls=NounGroup)
def rejects() -> None:
    """The lines that were refused.

    \b
    Example:  protheon rejects
              protheon rejects show --limit 1
    """


@rejects.command("list")
@run_argument
@limit_option(100)
@database_option
@json_option
def rejects_list(run: int | None, limit: int, into: str | None, as_json: bool) -> None:
    """List the rejects of a run.

    \b
    Example:  protheon rejects list 3 --json
    """
    emit_list(read("rejects", run, into, limit=limit), REJECT_COLUMNS, "no rejects", as_json=as_json, limit=limit)


@rejects.command("show")
@run_argument
@click.option("--id", "reject_id", type=click.IntRange(min=1), help="One reject by its number.")
@limit_option(10)
@database_option
@json_option
def rejects_show(run: int | None, reject_id: int | None, limit: int, into: str | None, as_json: bool) -> None:
    """Show rejects with their lines.

    \b
    Example:  protheon rejects show --id 7
    """
    rows = read("rejects", run, into, limit=limit, **({} if reject_id is None else {"reject_id": reject_id}))
    if as_json:
        output.emit_json(rows)
    elif not rows:
        output.messages().print("no rejects", markup=False)
    for row in () if as_json else rows:
        output.emit_drawing(*reject_card(row))


def reject_card(row: Mapping[str, Any]) -> list[RenderableType]:
    """One reject: where, why, and how its line begins."""
    raw = bytes(row["raw"])
    text = raw[:RAW_SHOWN].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    more = row["raw_bytes"] - len(raw[:RAW_SHOWN])
    where = f"reject {row['id']}: load {row['load_id']}, line {figures.count(row['line'])}, byte {figures.count(row['byte_offset'])}"
    facts = [row["reason"]]
    facts += [f"part {row['part']}"] if row["part"] else []
    facts += [f"table {row['table_name']}"] if row["table_name"] else []
    facts += [f"SQLSTATE {row['sqlstate']}"] if row["sqlstate"] else []
    tail = f" .. {figures.count(more)} more bytes" if more > 0 else ""
    return [
        Text(where, style="bold"),
        Text("  " + "; ".join(facts), style="yellow"),
        Padding(Text.assemble(text, (tail, "dim")), (0, 0, 1, 2)),
    ]


@click.group(cls=NounGroup)
def dlq() -> None:
    """The dead letters: chunks that gave up.

    \b
    Example:  protheon dlq
              protheon dlq show --task 12
    """


@dlq.command("list")
@run_argument
@database_option
@json_option
def dlq_list(run: int | None, into: str | None, as_json: bool) -> None:
    """List the dead letters of a run.

    \b
    Example:  protheon dlq list --json
    """
    emit_list(read("dead_letters", run, into), DEAD_COLUMNS, "no dead letters", as_json=as_json)


@dlq.command("show")
@run_argument
@click.option("--task", "task_id", type=click.IntRange(min=1), help="One dead letter by its task.")
@database_option
@json_option
def dlq_show(run: int | None, task_id: int | None, into: str | None, as_json: bool) -> None:
    """Show dead letters with the errors that they died of.

    \b
    Example:  protheon dlq show
    """
    rows = read("dead_letters", run, into, **({} if task_id is None else {"task_id": task_id}))
    if as_json:
        output.emit_json(rows)
    elif not rows:
        output.messages().print("no dead letters", markup=False)
    for row in () if as_json else rows:
        pairs = [(name.replace("_", " "), Text(str(value) if name == "traceback" else output.cell(value))) for name, value in row.items()]
        output.emit_drawing(output.record([(name, value) for name, value in pairs if value.plain]), Text(""))
