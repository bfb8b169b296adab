"""The lines that a run refused: list, show, export, replay."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

import click
import zstandard
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.load import finish, reject_limit_of, see_through
from protheon_dask.cli.output import Shown
from protheon_dask.cli.reports import count_text, emit_list, read
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
from protheon_dask.errors import NotFound
from protheon_dask.model import MAX_REFUSALS
from protheon_dask.pipelines.find import find
from protheon_dask.policy import RejectLimit
from protheon_dask.run.exits import DONE, INCOMPLETE
from protheon_dask.telemetry.ended import reasons

if TYPE_CHECKING:
    from protheon_dask.run.api import Master

all_option = click.option("--all", "everything", is_flag=True, help="Those that were replayed, too.")

RAW_SHOWN: Final = 300  # characters of a line that `rejects show` prints

REJECT_COLUMNS: Final = (
    Shown("id", "reject", right=True, style="bold"),
    Shown("load_id", "load", right=True, drop=2),
    Shown("line", "line", count_text, right=True),
    Shown("part", "part"),
    Shown("sqlstate", "SQLSTATE", drop=1),
    Shown("reason", "reason"),
    Shown("table_name", "table", keep=True, drop=3),
    Shown("replayed_by", "replayed by run", count_text, right=True),
)


@click.group(cls=NounGroup)
def rejects() -> None:
    """The lines that were refused: look at them, take them out, load them once their cause is mended.

    \b
    Example:  protheon rejects
              protheon rejects show --limit 1
              protheon rejects replay --pipeline mended.py:orders
    """


@rejects.command("list")
@run_argument
@limit_option(20)
@all_option
@database_option
@json_option
def rejects_list(run: int | None, limit: int, everything: bool, into: str | None, as_json: bool) -> None:
    """List what is still refused of a run's files; with --all then what was replayed, and by which run.

    \b
    Example:  protheon rejects list 3 --json
    """
    rows = read("rejects", run, into, limit=limit + 1, replayed=everything)
    if rows and not as_json:
        from protheon_dask.run import api

        with opened(into) as url:
            told = reasons(api.refusals(url, run), MAX_REFUSALS)
        output.emit_drawing(*(Text(line, style="yellow") for line in told), *([Text("")] if told else []))
    emit_list(rows, REJECT_COLUMNS, "no rejects", as_json=as_json, limit=limit)
    if not as_json:
        tell_next(rows, run, into)
        tell_replayed(run, into, everything=everything)


@rejects.command("show")
@run_argument
@click.option("--id", "reject_id", type=click.IntRange(min=1), help="One reject by its number.")
@limit_option(10)
@all_option
@database_option
@json_option
def rejects_show(run: int | None, reject_id: int | None, limit: int, everything: bool, into: str | None, as_json: bool) -> None:
    """Show rejects with their files and lines, in the order of these, as the list has them.

    \b
    Example:  protheon rejects show --id 7
    """
    chosen: dict[str, Any] = {"replayed": everything} if reject_id is None else {"reject_id": reject_id}
    rows = read("rejects", run, into, limit=limit + 1, **chosen)
    there_are_more, rows = len(rows) > limit, rows[:limit]
    if reject_id is not None and not rows:
        of_run, listing = ("the latest run", "") if run is None else (f"run {run}", f" {run}")
        raise NotFound(f"there is no reject {reject_id} of {of_run}: `protheon rejects list{listing} --all` lists them")
    if as_json:
        output.emit_json(rows)
    elif not rows:
        output.messages().print("no rejects", markup=False)
    for row in () if as_json else rows:
        output.emit_drawing(*reject_card(row))
    if there_are_more and not as_json:
        tell_more(limit, run, into, everything=everything)
    if not as_json:
        tell_next(rows, run, into)
        tell_replayed(run, into, everything=everything or reject_id is not None)


def tell_more(limit: int, run: int | None, into: str | None, *, everything: bool) -> None:
    """Say that there are more rejects than were shown, how many, and how to see them."""
    from protheon_dask.run import api

    with opened(into) as url:
        left = api.still_refused(url, run)
    n = left.n_lines + left.n_parts + (sum(row["n"] for row in read("replayed", run, into)) if everything else 0)
    told = f"the first {words.count(limit)} of {words.count(n)}, in the order of files and lines; --limit {n} shows all"
    output.messages().print(told, style="dim", markup=False, soft_wrap=True)


def tell_replayed(run: int | None, into: str | None, *, everything: bool) -> None:
    """Say what is left out because it was replayed, and how to see it."""
    if everything or not (found := read("replayed", run, into)):
        return
    by = ", ".join(str(row["run_id"]) for row in found)
    n = sum(row["n"] for row in found)
    told = f"{words.counted(n, 'was', 'were')} replayed by run {by} (--all shows {'it' if n == 1 else 'them'})"
    output.messages().print(told, style="dim", markup=False, soft_wrap=True)


def tell_next(rows: Sequence[Mapping[str, Any]], run: int | None, into: str | None) -> None:
    """Name the command that loads lines whose cause is mended, if there are any."""
    if any(row["part"] is None and row["replayed_by"] is None for row in rows):
        command = f"protheon rejects replay{'' if run is None else f' {run}'}{flag_of(into)}"
        output.messages().print(f"once their cause is mended: {command} [--pipeline NAME]", style="dim", markup=False, soft_wrap=True)


def reject_card(row: Mapping[str, Any]) -> list[RenderableType]:
    """One reject: where, why, and how its line begins."""
    raw = bytes(row["raw"])
    text = raw[:RAW_SHOWN].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    more = row["raw_bytes"] - len(raw[:RAW_SHOWN])
    where = f"reject {row['id']}: line {words.count(row['line'])} of {row['path']}, "
    where += f"byte {words.count(row['byte_offset'])} (load {row['load_id']} of run {row['run_id']})"
    facts = [row["reason"]]
    facts += [f"part {row['part']}"] if row["part"] else []
    facts += [f"table {row['table_name']}"] if row["table_name"] and not names(row["reason"], row["table_name"]) else []
    facts += [f"SQLSTATE {row['sqlstate']}"] if row["sqlstate"] and not names(row["reason"], row["sqlstate"]) else []
    facts += [f"replayed by run {row['replayed_by']}"] if row["replayed_by"] else []
    tail = f" .. {words.count(more)} more bytes" if more > 0 else ""
    return [
        Text(where, style="bold"),
        Text("  " + "; ".join(facts), style="yellow"),
        Padding(Text.assemble(text, (tail, "dim")), (0, 0, 1, 2)),
    ]


def names(reason: str, word: str) -> bool:
    """Does the reason say this name already?"""
    return re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", reason) is not None


@rejects.command("export")
@run_argument
@click.option("--output", "-o", "target", default="-", metavar="FILE|-", help="Where to; .zst and .gz compress. Left out: stdout.")
@all_option
@click.option("--raw", is_flag=True, help="The lines alone as they stood in their files, to be edited and loaded.")
@database_option
def rejects_export(run: int | None, target: str, everything: bool, raw: bool, into: str | None) -> None:
    """Write what is still refused of a run as lines of JSON, each with its place, its reason and its line.

    \b
    Example:  protheon rejects export 3 --output refused.jsonl.zst
    """
    from protheon_dask.run import api

    if raw and everything:
        raise click.UsageError("--raw is for what is still refused: a line that was refused twice would stand there twice")
    counted = api.Exported()
    with opened(into) as url, sink_of(target) as sink:
        try:
            for line in api.export(url, run, counted, everything=everything, raw=raw):
                sink.write(line)
            sink.flush()
        except BrokenPipeError:  # `| head` has seen enough
            output.end_stdout()
            return
    told = f"{words.counted(counted.n, 'line' if raw else 'reject')} written to {'stdout' if target == '-' else target}"
    if raw and counted.n_parts:
        told += f"; {words.counted(counted.n_parts, 'refused part')} of lines left out: the lines are loaded"
    if counted.n_truncated:
        what = "left out" if raw else "cut"
        told += f"; {words.counted(counted.n_truncated, 'line')} {what}: the ledger keeps 64 KiB of a line (a replay has all of it)"
    output.messages().print(told, style="dim", markup=False, soft_wrap=True)


@contextmanager
def sink_of(target: str) -> Iterator[IO[bytes]]:
    """A stream into a file, compressed as its name says, or into stdout. A file gets its name when it is whole."""
    if target == "-":
        yield sys.stdout.buffer
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file, compressed(file, path.suffix) as sink:
            yield sink
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def compressed(file: IO[bytes], suffix: str) -> IO[bytes]:
    """The stream that compresses into file as this suffix says, or file itself."""
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0))
    if suffix in (".zst", ".zstd"):
        return cast("IO[bytes]", zstandard.ZstdCompressor().stream_writer(file, closefd=False))
    return file


@rejects.command("replay")
@run_argument
@click.option("--pipeline", metavar="NAME", help="The corrected one: module:name, file.py:name, pgcr or jsonl; left out, the run's own.")
@click.option("--table", metavar="S.T", help="The table that jsonl loads into.")
@workers_option
@click.option(
    "--reject-limit", type=reject_limit_of, metavar="N|P%", help="Lines that it may refuse again; beyond, it pauses.  [default: no limit]"
)
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@database_option
@json_option
def rejects_replay(
    run: int | None,
    pipeline: str | None,
    table: str | None,
    into: str | None,
    workers: int | None,
    reject_limit: RejectLimit | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Send what is still refused of a run through its pipeline again, or through a corrected one, exactly once.

    It is a run of its own. A line that is refused again can be replayed again. Interrupted or failed? Type the same again.
    Parts of lines that were refused are left as they are: the rest of their lines is loaded.

    \b
    Example:  protheon rejects replay 3 --pipeline mended.py:orders
    """
    from protheon_dask.run import api

    effective = effective_settings()
    database = resolved(effective, into)
    with api.opened(effective, database) as url:
        left = api.still_refused(url, run)
    if not left.n_lines:
        parts = f"; {words.counted(left.n_parts, 'refused part')} of lines stay as they are" if left.n_parts else ""
        tell_nothing(left.run_id, f"nothing to replay: no line of run {left.run_id} is still refused{parts}", as_json=as_json)
        click.get_current_context().exit(DONE)
    if not left.n_standing_lines:  # a cluster would only be started to say the same
        stay = f"{words.counted(left.n_lines, 'line')} of run {left.run_id} {'stays' if left.n_lines == 1 else 'stay'} refused"
        why = "undone (type its `protheon load` to load it anew), or loaded once more by --again (replay that run's rejects)"
        tell_nothing(left.run_id, f"{stay}: the load was {why}", as_json=as_json)
        click.get_current_context().exit(INCOMPLETE)
    name = pipeline or ("jsonl" if table else None)
    chosen = None if name is None else find(name, table=table, paths=left.paths)

    def ask(master: Master) -> tuple[int, Sequence[str]]:
        submitted = master.replay(left.run_id, chosen, reject_limit)
        return submitted.run_id, submitted.notices

    final = see_through(effective, database, ask, workers=workers, quiet=quiet, into=flag_of(into))
    if final is None:
        now = f"still refused of run {left.run_id}: {words.counted(left.n_lines, 'line')}, of which none can be replayed now"
        tell_nothing(left.run_id, now, as_json=as_json)
        click.get_current_context().exit(INCOMPLETE)
    finish(final, flag_of(into), quiet=quiet, as_json=as_json)


def tell_nothing(run_id: int, message: str, *, as_json: bool) -> None:
    """Say that no run was made, and why."""
    if as_json:
        output.emit_json({"run": None, "replay_of": run_id, "message": message})
    else:
        output.messages().print(message, markup=False, soft_wrap=True)
