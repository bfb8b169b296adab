"""What an open page looks at: the cluster now, or one run's story. Knows neither Bokeh nor Dask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from protheon_dask import words
from protheon_dask.telemetry import told as sentences
from protheon_dask.telemetry.pace import Rates
from protheon_dask.telemetry.picture import ClusterPicture
from protheon_dask.telemetry.series import Series, Told
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.story import RunStory

SILENT_S: Final = 5.0  # without a picture for so long, the page says that it is old: five were due
LATE_S: Final = 10.0  # an answer that takes longer is said to be missing: it is due within seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a panel draws at one tick. The same objects as at the last tick, where nothing is new."""

    now_s: float
    is_there: bool  # the plugin, which pictures are sent to
    picture: ClusterPicture | None
    series: Series
    run: int | None  # the run that was chosen; None: the cluster, now
    story: RunStory | None  # of that run, once the broker has sent it
    asked_s: float = 0.0  # for how long it has been asked for
    unknown: bool = False  # the ledger has no run of this number

    @property
    def statistics(self) -> RunStatistics | None:
        """Of the chosen run: the newest that there is."""
        return next((run for run in self._runs if run.run == self.run), self.story.statistics if self.story else None)

    @property
    def _runs(self) -> tuple[RunStatistics, ...]:
        return self.picture.runs if self.picture else ()

    def rates(self, run: RunStatistics) -> Rates:
        """Of the last seconds, of one that is at work; of its whole time, of one that has ended."""
        if run.state.is_final:
            return Rates(run.lines_per_s, run.raw_mb_per_s, run.rows_per_s)
        return self.series.rates(run.run, self.now_s)

    def fraction(self, run: RunStatistics) -> float:
        """Committed of all there is, never less than it was."""
        return max(run.fraction, self.series.fraction(run.run))

    @property
    def stale(self) -> str | None:
        """Why there is nothing to draw, or why it is old; in words that say what to do. None: all is well."""
        if not self.is_there:
            return "The scheduler runs without Protheon's plugin: its log says why (“Failed to start preload”)."
        silent_s = self.series.silent_s(self.now_s)
        if self.picture is None or silent_s is None:
            return "No broker has sent a picture yet. Start one: protheon load FILES, protheon.local() in a notebook, or protheon master."
        if silent_s > SILENT_S:
            return f"Nothing was heard of the broker for {words.duration(silent_s)}: what is shown is as old."
        return None

    @property
    def waits_for_story(self) -> str | None:
        """Why the chosen run is not drawn yet."""
        if self.run is None or self.story is not None:
            return None
        if self.unknown:
            return f"There is no run {self.run}: protheon runs list shows those that there are."
        if self.asked_s > LATE_S:
            return f"Run {self.run} was asked for {words.duration(self.asked_s)} ago, and the broker has not answered: does it run?"
        return f"Asking the broker for run {self.run} .."


class View:
    """The choice of one open page, and what it sees. Not thread-safe: it lives on the scheduler's event loop."""

    def __init__(self, told: Callable[[], Told | None], clock: Callable[[], float], run: int | None = None) -> None:
        self._told, self._clock = told, clock
        self._nothing = Series()
        self._asked_at_s: float | None = None
        self._run = run
        self.seen = self._look()

    def choose(self, run: int | None) -> None:
        """Look at this run from now on; None: at the cluster."""
        self._run, self._asked_at_s = run, None
        self.refresh()

    def refresh(self) -> None:
        """Look anew, and ask for the story of the chosen run. Cheap: nothing is copied."""
        self.seen = self._look()

    def _look(self) -> Seen:
        now_s, told = self._clock(), self._told()
        if told is None:
            return Seen(now_s, False, None, self._nothing, self._run, None)
        if self._run is None:
            return Seen(now_s, True, told.latest, told.series, None, None)
        told.want(self._run)
        self._asked_at_s = now_s if self._asked_at_s is None else self._asked_at_s
        asked_s, unknown = now_s - self._asked_at_s, told.is_unknown(self._run)
        return Seen(now_s, True, told.latest, told.series, self._run, told.stories.get(self._run), asked_s, unknown)

    def choices(self) -> list[str | tuple[Any, str]]:
        """Value and words of each choice: now, the runs of the picture, and the one that is looked at."""
        runs = self.seen.picture.runs if self.seen.picture else ()
        offered = {str(run.run): f"{shorten(sentences.what(run))} · {run.state}" for run in runs}
        if self._run is not None:
            offered.setdefault(str(self._run), f"run {self._run}")
        return [("", "now: all runs"), *offered.items()]


LONGEST_CHOICE: Final = 72  # characters; the list of a <select> is as wide as its longest


def shorten(text: str) -> str:
    """Without its middle where it is too long: the ends of names tell them apart."""
    return text if len(text) <= LONGEST_CHOICE else f"{text[: LONGEST_CHOICE - 30]} .. {text[-26:]}"
