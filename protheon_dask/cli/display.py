"""Progress on stderr while a command waits: live on a terminal, a plain line now and then elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from protheon_dask.cli import output
from protheon_dask.cli.progress import picture, plain_line
from protheon_dask.telemetry.pace import Pace, Rates
from protheon_dask.telemetry.statistics import RunStatistics

FRAMES_PER_S: Final = 4
PLAIN_EVERY_S: Final = 10.0


class Display(Protocol):
    """Where a command tells how far it is. Callable from any thread."""

    def event(self, text: str) -> None:
        """Something happened on the way: a server is ready, a file is made."""

    def note(self, text: str) -> None:
        """Something that the person should know."""

    def show(self, statistics: RunStatistics) -> None:
        """The run as it is now."""

    def settle(self) -> None:
        """Nothing is waited for any more, and stdout is written to: from here on no picture changes in place."""


class QuietDisplay:
    """Nothing at all."""

    def event(self, text: str) -> None:
        pass

    note = event

    def show(self, statistics: RunStatistics) -> None:
        pass

    def settle(self) -> None:
        pass


class _Board:
    """The newest picture of the run and its pace, shared with the thread that draws."""

    def __init__(self) -> None:
        self._lock, self._pace = Lock(), Pace()
        self._statistics: RunStatistics | None = None

    def show(self, statistics: RunStatistics) -> None:
        with self._lock:
            self._statistics = statistics
            self._pace.add(statistics, time.monotonic())

    def latest(self) -> tuple[RunStatistics | None, Rates]:
        with self._lock:
            return self._statistics, self._pace.rates(time.monotonic())


class LiveDisplay(_Board):
    """A picture that changes in place, with what happened scrolling above it. A context manager."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._ascii = console.options.ascii_only
        self._spinner = Spinner("line" if self._ascii else "dots", style="cyan")
        self._doing = "starting"
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=FRAMES_PER_S, transient=True, redirect_stdout=False
        )

    def __enter__(self) -> LiveDisplay:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def settle(self) -> None:
        self._live.stop()

    def event(self, text: str) -> None:
        self._console.print(f"  [dim]{escape(text)}[/dim]")

    def note(self, text: str) -> None:
        self._console.print(f"  [yellow]{escape(text)}[/yellow]")

    def _draw(self) -> RenderableType:
        statistics, rates = self.latest()
        if statistics is None:
            self._spinner.update(text=Text(self._doing, style="dim"))
            return self._spinner
        return Group(Text(""), picture(statistics, rates, self._console.width, plain=self._ascii))


class PlainDisplay(_Board):
    """A line at once and every 10 s. A context manager; its thread ends with it."""

    def __init__(self, console: Console, every_s: float = PLAIN_EVERY_S) -> None:
        super().__init__()
        self._console, self._every_s = console, every_s
        self._ending, self._begun = Event(), Event()
        self._thread = Thread(target=self._run, name="protheon-progress", daemon=True)

    def __enter__(self) -> PlainDisplay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._begun.set()
        self._thread.join()

    def event(self, text: str) -> None:
        self._console.print(text, markup=False)

    note = event

    def show(self, statistics: RunStatistics) -> None:
        super().show(statistics)
        self._begun.set()

    def settle(self) -> None:
        pass

    def _run(self) -> None:
        self._begun.wait()
        while not self._ending.is_set():
            statistics, rates = self.latest()
            if statistics is not None:
                self._console.print(plain_line(statistics, rates), markup=False)
            self._ending.wait(self._every_s)


@contextmanager
def display(*, quiet: bool) -> Iterator[Display]:
    """The display that fits: nothing if quiet, live if stderr is a terminal, else plain lines."""
    console = output.messages()
    if quiet:
        yield QuietDisplay()
    elif console.is_terminal and not console.is_dumb_terminal:
        with LiveDisplay(console) as live:
            yield live
    else:
        with PlainDisplay(console) as plain:
            yield plain
