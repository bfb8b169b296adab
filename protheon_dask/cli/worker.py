"""``protheon worker``: this machine works for a master, until it is told to stop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import click

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.verbs import effective_settings
from protheon_dask.errors import NotAllowed
from protheon_dask.run.exits import NOT_ALLOWED

AUTO, STDIN = "auto", "-"
MAX_LINE_CHARS = 8192
"""Twice what a token can have."""


@click.command()
@click.argument("master", required=False, metavar="[MASTER]")
@click.option("--workers", default=AUTO, show_default=True, metavar="N|auto", help="Worker processes; auto: by cores and memory.")
@click.option("--memory-limit", default=AUTO, show_default=True, metavar="SIZE|auto", help="Of each worker, such as 2GB.")
@click.option("--join", "token", metavar="TOKEN", help="Join the cluster first, as `protheon cluster invite` there says; -: from stdin.")
@click.option("--name", "host", metavar="HOST", help="This machine's name in the cluster; left out, its own.")
@click.option("--into", metavar="URL", help="The master's PostgreSQL as this machine reaches it; left out, as the master says.")
@click.option("--insecure", is_flag=True, help="No certificates: anyone who reaches Dask's ports here runs code as you.")
def worker(
    master: str | None, workers: str, memory_limit: str, token: str | None, host: str | None, into: str | None, insecure: bool
) -> None:
    """Work for a master: MASTER is its gRPC address; left out, the one whose cluster this machine has joined.

    Whatever happens to master, scheduler, database or network, it joins again by itself. SIGTERM and Ctrl-C drain it: no new work,
    what is in hand ends or is given back within exit_grace_s; once more ends it at once.

    \b
    Example:  protheon worker --join protheon-join.AbC..
    Example:  ssh nuc protheon cluster invite | protheon worker --join -
    Later:    protheon worker
    """
    from protheon_dask.run.hosting import Hosting
    from protheon_dask.run.machine import this_machine
    from protheon_dask.run.reaching import Wanted, reach
    from protheon_dask.run.sizing import choose, parse_memory

    if token == STDIN:
        token = token_of_stdin()
    settings = effective_settings().settings
    sizing = choose(this_machine(), _number(workers), None if memory_limit == AUTO else parse_memory(memory_limit))
    wanted = Wanted(master=master or "", token=token or "", into=into or "", host=host or "", insecure=insecure)
    with told_apart():
        at = reach(settings, wanted)
    say(f"host {at.host}: {words.counted(sizing.n_workers, 'worker')} of {words.size(sizing.memory_limit_bytes)} at most")
    for warning in filter(None, (sizing.warning, INSECURE if at.tls is None and not at.is_here else "")):
        say(warning)
    hosting = Hosting(settings, at, sizing, into=into or "", say=say)
    with told_apart(), stopped_by_signals(hosting.stop):
        hosting.run()


class Refused(click.ClickException):
    """The master does not let this host in."""

    exit_code = NOT_ALLOWED


@contextmanager
def told_apart() -> Iterator[None]:
    """Give a refusal an exit code of its own: a service manager starts this host again after anything else."""
    try:
        yield
    except NotAllowed as error:
        raise Refused(str(error)) from error


INSECURE = "--insecure: all that travels can be read and changed on the way, and anyone who reaches a port of Dask here runs code as you"


def say(text: str) -> None:
    """A line on stderr, with the time of this machine."""
    output.messages().print(f"{datetime.now().astimezone():%H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True)


def token_of_stdin() -> str:
    """The token, from a pipe or typed unseen: in no list of processes and no shell's history. All of an invite's line will do, too."""
    line = str(click.prompt("token", hide_input=True, err=True)) if sys.stdin.isatty() else sys.stdin.readline(MAX_LINE_CHARS)
    if not (found := line.split()):
        raise click.BadParameter("there is no token on standard input", param_hint="--join")
    return found[-1]


def _number(text: str) -> int | None:
    if text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is no number of workers: give 1 or more, or auto", param_hint="--workers")
    return int(text)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """In this block SIGTERM and Ctrl-C call stop, each time. For the main thread."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
