"""The card of a run in a notebook, drawn anew in its cell while the run goes on, without any widget."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Condition, Thread
from typing import Any, Final
from uuid import uuid4

from protheon_dask.errors import ProtheonError, TransientError
from protheon_dask.telemetry.card import run_html, run_text, shown_fraction, told_html
from protheon_dask.telemetry.pace import Pace
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.words import says_since, since, visible

DRAW_S: Final = 0.5
"""Between two drawings, while somebody looks."""
DRAWINGS: Final = 200
"""Drawings in the first 100 s after a cell was run, and then about as many each time that three times as long has passed: a server
keeps what nobody fetches, and a notebook that was closed for a week is to cost it megabytes, not gigabytes."""
FIRST_S: Final = 2.0
"""How long a cell waits for the first picture: then the card says that it is on its way."""
RETRY_S: Final = 1.0
MOST_RETRY_S: Final = 15.0
"""Between two looks for a master that does not answer: at first, and at most."""


class LiveCard:
    """The card of one run, in each cell that shows it: all are drawn anew, at most every DRAW_S, until the run has ended or paused.

    pictures:       watches the run: at once and whenever it changed, until it has ended or paused. It may wait, and raise.
    dashboard_link: the page to link to; asked once, beside the cell's own thread.
    Guarantee:      thread-safe. Two daemon threads while the run goes on and is shown, none otherwise. Committed progress never runs
                    backwards. An outage is told on the card, with since when, and the card goes on after it.
                    Outside of a notebook nothing is drawn: in IPython's console show() prints the run once.
    """

    def __init__(
        self, name: str, pictures: Callable[[], Iterator[RunStatistics]], dashboard_link: Callable[[], str | None] = lambda: None
    ) -> None:
        self._name, self._pictures, self._ask_link = name, pictures, dashboard_link
        self._changed = Condition()
        self._display_id = uuid4().hex
        self._link: str | None = None
        self._latest: RunStatistics | None = None
        self._told = f"{name}: asking its master"
        self._pace, self._least = Pace(), 0.0
        self._generation = 0  # of the threads: those of another one are to end
        self._is_live = self._is_shown = self._is_urgent = False
        self._drawn: dict[str, str] = {}

    def show(self) -> None:
        """Show the run in this cell; in IPython's console, print it once."""
        if shell_here() is None:
            return
        if not is_notebook():
            self._look()
            print(self._bundle()["text/plain"])
            return
        self._go_on()
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or not self._is_live, FIRST_S)
        from IPython.display import display

        with self._changed:
            self._drawn, self._is_shown = self._bundle(), True
            display(self._drawn, raw=True, display_id=self._display_id)  # type: ignore[no-untyped-call]

    def wake(self) -> None:
        """The run goes on after it had ended or paused: draw it again wherever it is shown."""
        if self._is_shown:
            self._go_on()

    def settle(self, picture: RunStatistics) -> None:
        """The run has come to rest, and this is its last picture: draw it before this returns.

        For who waits in a cell: a notebook that is executed without a page takes only what comes before the cell's end.
        """
        self._end()
        self._take(picture)
        self._draw()

    def _end(self) -> None:
        """Let the threads end; what they still bring counts no more."""
        with self._changed:
            self._generation += 1
            self._is_live = False
            self._changed.notify_all()

    def _go_on(self) -> None:
        with self._changed:
            if self._is_live:
                return
            self._generation += 1
            self._is_live = True
            for work in (self._read, self._redraw):
                Thread(target=work, args=(self._generation,), name=f"protheon-card-{work.__name__.strip('_')}", daemon=True).start()

    # --- taking pictures ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take one picture, here and now."""
        try:
            for picture in self._pictures():
                self._take(picture)
                break
        except ProtheonError as exc:
            self._tell(str(exc))

    def _read(self, generation: int) -> None:
        """Take pictures, and draw the last one. What is no error of ours is told on the card too, and by the thread: a defect."""
        try:
            self._follow(generation)
        except Exception as exc:
            self._tell(f"{type(exc).__name__}: {exc}", generation)
            raise
        finally:
            try:
                if self._is_of(generation):
                    self._draw()
            finally:
                self._come_to_rest(generation)

    def _follow(self, generation: int) -> None:
        """Take pictures until the run has come to rest, or is never to be seen again."""
        retry_s = RETRY_S
        while self._is_of(generation):
            try:
                if self._link is None:
                    self._link = self._ask_link()
                for picture in self._pictures():
                    retry_s = RETRY_S
                    if not self._take(picture, generation):
                        return
                if self._latest is not None and self._latest.state.is_settled:
                    break
            except TransientError as exc:
                self._tell(str(exc), generation)
            except ProtheonError as exc:
                self._tell(str(exc), generation)
                break
            with self._changed:
                self._changed.wait_for(lambda: not self._is_of(generation), retry_s)
            retry_s = min(MOST_RETRY_S, 2 * retry_s)

    def _come_to_rest(self, generation: int) -> None:
        """Nothing more comes of this generation, whatever ended it: the next show() begins another one."""
        with self._changed:
            if self._is_of(generation):
                self._is_live = False
                self._changed.notify_all()

    def _is_of(self, generation: int) -> bool:
        return self._is_live and generation == self._generation

    def _take(self, picture: RunStatistics, generation: int | None = None) -> bool:
        """Keep a picture; False: it comes too late."""
        with self._changed:
            if generation is not None and not self._is_of(generation):
                return False
            known = self._latest
            if known is None or known.run != picture.run:
                self._pace, self._least = Pace(), 0.0
            self._pace.add(picture, time.monotonic())
            self._least = shown_fraction(picture, self._least)
            self._is_urgent |= known is None or (known.state, known.reason) != (picture.state, picture.reason)
            self._latest = picture
            self._changed.notify_all()
        return True

    def _tell(self, what: str, generation: int | None = None) -> None:
        """Say what keeps the card from going on, and since when."""
        with self._changed:
            if generation is not None and not self._is_of(generation):
                return
            if self._latest is None:
                self._told = f"{self._name}: {what}"
            elif not self._latest.state.is_final and not says_since(self._latest.reason or ""):
                told = what if says_since(what) else since(datetime.now(UTC), what)
                self._latest = dataclasses.replace(self._latest, reason=told)
            self._is_urgent = True
            self._changed.notify_all()

    # --- drawing ------------------------------------------------------------------------------------------------------------

    def _redraw(self, generation: int) -> None:
        try:
            self._draw_on(generation)
        finally:
            self._come_to_rest(generation)

    def _draw_on(self, generation: int) -> None:
        looked_at_s, n_cells = time.monotonic(), _n_cells()
        while True:
            if (n := _n_cells()) != n_cells:
                looked_at_s, n_cells = time.monotonic(), n
            time.sleep(DRAW_S)  # never more often, whatever is urgent
            with self._changed:
                wait_s = pause_s(time.monotonic() - looked_at_s) - DRAW_S
                self._changed.wait_for(lambda: self._is_urgent or not self._is_of(generation), wait_s)
                if not self._is_of(generation):
                    return
            self._draw()

    def _draw(self) -> None:
        with self._changed:  # one drawing after the other: an older one never covers a newer one
            self._is_urgent = False
            bundle = self._bundle()
            if not self._is_shown or bundle == self._drawn:
                return
            self._drawn = bundle
            from IPython.display import update_display

            update_display(bundle, display_id=self._display_id, raw=True)  # type: ignore[no-untyped-call]

    def _bundle(self) -> dict[str, str]:
        """The card as it is now, by media type."""
        with self._changed:
            if self._latest is None:
                return {"text/plain": visible(self._told), "text/html": told_html(self._told)}
            rates = self._pace.rates(time.monotonic())
            return {
                "text/plain": run_text(self._latest, rates, least_fraction=self._least),
                "text/html": run_html(self._latest, rates, self._link, least_fraction=self._least),
            }


def pause_s(unwatched_s: float) -> float:
    """Between two drawings, so long after the last cell was run. A change of state, an outage and the end are drawn at once."""
    return max(DRAW_S, unwatched_s / DRAWINGS)


def shell_here() -> Any | None:
    """The IPython that this runs in; None: it runs in none."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return get_ipython()


def is_notebook() -> bool:
    """Does this run in an IPython with a page that can be drawn anew?"""
    return getattr(shell_here(), "kernel", None) is not None


def _n_cells() -> int:
    """It changes whenever a person runs a cell."""
    return getattr(shell_here(), "execution_count", 0)
