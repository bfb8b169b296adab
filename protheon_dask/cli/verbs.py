"""The grammar that reports share: a noun, a verb that may be left out (list), and a run that may be left out (the latest)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protheon_dask.cli import output

if TYPE_CHECKING:
    from protheon_dask.config import Effective
    from protheon_dask.run.api import Database

EMBEDDED: Final = "embedded"
"""In the place of a database's URL: the embedded one, whatever the environment says."""
DATABASE_HELP: Final = "The PostgreSQL, or `embedded`; left out, the one that `protheon db url` names."


class NounGroup(click.Group):
    """A group whose verb may be left out: ``protheon runs --json`` is ``protheon runs list --json``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names and _may_follow_list(args[0])):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            raise click.UsageError(f"no verb {args[0]!r}; there are: {', '.join(sorted(self.commands))}", ctx)
        return super().resolve_command(ctx, args)


def _may_follow_list(argument: str) -> bool:
    return argument.startswith("-") or argument.isdigit()


def run_number(text: str) -> int:
    """Read the number of a run, from 1. Raises click.BadParameter."""
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is not the number of a run; `protheon runs` lists them")
    return int(text)


run_argument = click.argument("run", type=run_number, required=False, metavar="[RUN]")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; all else goes to stderr.")
database_option = click.option("--database", "--into", "into", metavar="URL", help=DATABASE_HELP)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes, where a cluster is started; left out, by cores and memory."
)


def limit_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--limit", type=click.IntRange(min=1), default=default, show_default=True, help="At most so many rows.")


def effective_settings(**given: Any) -> Effective:
    """Settings from environment, --config and the command's flags."""
    from protheon_dask.run.settings import read_settings

    config_file: Path | None = click.get_current_context().find_root().obj
    return read_settings(given, config_file=config_file)


def resolved(effective: Effective, into: str | None, *, is_asked: bool = True) -> Database:
    """The database that --into or --database names: a URL, the word ``embedded``, or the one that the settings say.

    On a machine of a cluster that names none a person is told that it is not the cluster's. is_asked: what the command says is from there.
    """
    from protheon_dask.run.api import resolve_database

    database = resolve_database(effective, into, embedded=into == EMBEDDED)
    given = click.get_current_context().params
    if database.notice and is_asked and not (given.get("as_json") or given.get("quiet")):
        output.messages().print(database.notice, markup=False, soft_wrap=True)
    return database


_PASSWORD: Final = re.compile(r"(?<=[?&\s])(?:ssl)?password\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^&\s]*)[&\s]?")  # a URL's parameter or a DSN's


def flag_of(into: str | None) -> str:
    """What a command that is printed for pasting must add to mean the same database; no password is ever in it.

    Nothing where the database came from the environment or is the default: the next command finds it there as well.
    """
    if into is None:
        return ""
    head, separator, rest = into.partition("://")
    user_info, at, place = rest.rpartition("@")
    url = f"{head}://{user_info.split(':', 1)[0]}@{place}" if separator and at else into
    return f" --into {shlex.quote(_PASSWORD.sub('', f' {url}').strip().rstrip('?&'))}"


@contextmanager
def opened(into: str | None) -> Iterator[str]:
    """A URL of the report's database that answers, for the time of the block."""
    from protheon_dask.run import api

    effective = effective_settings()
    with api.opened(effective, resolved(effective, into)) as url:
        yield url
