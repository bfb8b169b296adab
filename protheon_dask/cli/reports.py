"""The reports of a run: files, chunks, attempts. They read the ledger; no master need run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.output import Shown
from protheon_dask.cli.verbs import NounGroup, database_option, json_option, limit_option, opened, run_argument


def count_text(value: int | None) -> str:
    return "" if value is None else words.count(value)


def seconds_text(value: float | None) -> str:
    return "" if value is None else words.duration(value)


def size_text(value: int | None) -> str:
    return "" if value is None else words.size(value)


FILE_COLUMNS: Final = (
    Shown("load_id", "load", right=True, style="bold"),
    Shown("joined", "joined", keep=True, drop=1),
    Shown("split_state", "cut", keep=True, drop=2),
    Shown("undo_state", "undone", keep=True, style="yellow"),
    Shown("chunks_done", "done", count_text, right=True, drop=3),
    Shown("chunks", "chunks", count_text, right=True),
    Shown("lines", "lines", count_text, right=True),
    Shown("rejected", "rejects", count_text, right=True),
    Shown("path", "path"),
    Shown("split_message", "message", style="yellow"),
)
CHUNK_COLUMNS: Final = (
    Shown("load_id", "load", right=True),
    Shown("chunk_no", "chunk", right=True, style="bold"),
    Shown("task_id", "task", right=True, drop=2),
    Shown("state", "state", keep=True),
    Shown("first_line", "first line", count_text, right=True),
    Shown("n_lines", "lines", count_text, right=True),
    Shown("raw_bytes", "raw", size_text, right=True, drop=1),
    Shown("stored_bytes", "stored", size_text, right=True, drop=3),
    Shown("attempt_no", "attempts", right=True),
)
ATTEMPT_COLUMNS: Final = (
    Shown("task_id", "task", right=True, style="bold"),
    Shown("attempt_no", "try", right=True),
    Shown("worker", "worker", keep=True, drop=1),
    Shown("started_at", "started", keep=True, drop=2),
    Shown("seconds", "time", seconds_text, right=True),
    Shown("outcome", "outcome", keep=True),
    Shown("loaded", "loaded", count_text, right=True, drop=3),
    Shown("rejected", "rejects", count_text, right=True, drop=4),
    Shown("message", "message", style="yellow"),
)


def read(name: str, run: int | None, into: str | None, **filters: Any) -> list[dict[str, Any]]:
    """Rows of one report."""
    from protheon_dask.run import api

    with opened(into) as url:
        return api.report(url, name, run, **filters)


def emit_list(rows: Sequence[Mapping[str, Any]], shown: Sequence[Shown], nothing: str, *, as_json: bool, limit: int | None = None) -> None:
    """Print a list: an array of objects, or a table, or a word that there is nothing.

    limit: rows to print; one row beyond it tells that there are more.
    """
    there_are_more = limit is not None and len(rows) > limit
    rows = rows[:limit]
    if as_json:
        output.emit_json(rows)
    elif not rows:
        output.messages().print(nothing, markup=False)
    else:
        output.emit_drawing(output.Listing(output.filled(shown, rows), rows))
        if there_are_more:
            output.messages().print(f"the first {limit}; --limit shows more", style="dim", markup=False)


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
    emit_list(read("chunks", run, into, limit=limit + 1), CHUNK_COLUMNS, "the run has no chunks", as_json=as_json, limit=limit)


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
    rows = read("attempts", run, into, limit=limit + 1)
    timed = rows if as_json else [{**row, "seconds": took(row)} for row in rows]
    emit_list(timed, ATTEMPT_COLUMNS, "the run has no attempts", as_json=as_json, limit=limit)


def took(attempt: Mapping[str, Any]) -> float | None:
    """Seconds of an attempt that has ended."""
    return None if attempt["ended_at"] is None else (attempt["ended_at"] - attempt["started_at"]).total_seconds()
