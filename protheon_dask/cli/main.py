"""The command ``protheon``: its parts, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from protheon_dask import __version__
from protheon_dask.cli import exits, output
from protheon_dask.cli.cluster import cluster
from protheon_dask.cli.database import config, db, sql
from protheon_dask.cli.demo import demo
from protheon_dask.cli.dlq import dlq
from protheon_dask.cli.doctor import doctor
from protheon_dask.cli.lab import lab
from protheon_dask.cli.load import load
from protheon_dask.cli.master import master
from protheon_dask.cli.plan import plan
from protheon_dask.cli.preview import preview
from protheon_dask.cli.rejects import rejects
from protheon_dask.cli.reports import attempts, chunks, files
from protheon_dask.cli.runs import runs
from protheon_dask.cli.sample import sample
from protheon_dask.cli.scaffold import scaffold
from protheon_dask.cli.undo import undo
from protheon_dask.cli.worker import worker
from protheon_dask.run.exits import DONE, INTERNAL


class Root(click.Group):
    """A verb typed without its noun is told the nouns that have it."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        groups = {name: group for name, group in self.commands.items() if isinstance(group, click.Group)}
        if args and args[0] not in self.commands and (nouns := [name for name, group in groups.items() if args[0] in group.commands]):
            meant = " or ".join(f"`protheon {noun} {args[0]}`" for noun in nouns)
            raise click.UsageError(f"No such command {args[0]!r}; did you mean {meant}?", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="protheon", message="%(prog)s %(version)s")
@click.option(
    "--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE", help="A TOML file of settings."
)
@click.pass_context
def protheon(ctx: click.Context, config_file: Path | None) -> None:
    """Compressed line files into PostgreSQL, on every core of this machine, each line exactly once.

    \b
    Begin:    protheon demo
    Then:     protheon load YOUR.jsonl.zst
    """
    ctx.obj = config_file


for command in (
    load,
    preview,
    plan,
    doctor,
    lab,
    demo,
    sample,
    scaffold,
    runs,
    files,
    chunks,
    attempts,
    rejects,
    dlq,
    undo,
    master,
    cluster,
    sql,
    db,
    config,
    worker,
):
    protheon.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1, 2, 70, 75 or 130 (see exits)."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream that a caller put in its place
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # TextIO has it where it is a file
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: everything that was started is stopped
    try:
        with protheon.make_context("protheon", list(sys.argv[1:] if argv is None else argv)) as ctx:
            protheon.invoke(ctx)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the rim: whatever it is, the person gets one line and a code
        return report(error)
    return DONE


def report(error: BaseException) -> int:
    """Tell the person in one line on stderr, and return the exit code."""
    code = exits.code_of(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return code
    if os.environ.get("PROTHEON_DEBUG") == "1":
        traceback.print_exception(error)
    message = f"protheon: {exits.message_of(error)}"
    if code == INTERNAL and (kept := exits.keep_details(error, datetime.now(UTC))) is not None:
        message += f"; details are in {kept}"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" ({error.ctx.command_path} --help)"
    output.messages().print(message, markup=False, soft_wrap=True)
    return code
