"""What the dashboard's process holds for its pages: the latest picture, its numbers over time, and the stories that pages asked for.

Pure: no Dask, no Bokeh. The scheduler's plugin (run.preload_scheduler) is a Board that the broker fills; pages read it (series.Told).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from protheon_dask.telemetry.picture import ClusterPicture
from protheon_dask.telemetry.series import Series
from protheon_dask.telemetry.story import RunStory

MAX_STORIES: Final = 8
"""Stories that are kept, those that came last: one with 5,000 attempts takes some 5 MB."""
WANTED_S: Final = 15.0
"""A page that is open asks again every second: what nobody has asked for since then is fetched no more."""
REFRESH_S: Final = 5.0
"""How old the story of a run that is still at work becomes at least, and how long it is waited until an unknown run is looked for again."""
SHARE: Final = 0.05
"""Of the time that the ledger may be kept at work for telemetry's sake by each of its askers, whatever its size: for stories (one that
takes long to read is kept less fresh), for the totals, and for the runs (run.looking)."""
MAX_RUN: Final = 2**53 - 1
"""A greater number is none of a run: a browser does not know it exactly, and what is beyond 64 bits does not travel to the broker."""
TAKE_PICTURE, TAKE_STORY = "protheon_picture", "protheon_story"
"""Handlers of the scheduler's by which the broker fills the board."""


class Board:
    """Filled by the broker, once a second, and read by pages; all in one thread: the scheduler's event loop.

    now_s:     a clock that only rises.
    Guarantee: bounded, however long it lives, whatever pages ask for.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.latest: ClusterPicture | None = None
        self.series = Series()
        self._stories: dict[int, RunStory | None] = {}  # None: there is no such run; the one that came last is last
        self._came_s: dict[int, float] = {}
        self._took_s: dict[int, float] = {}
        self._asked_s: dict[int, float] = {}  # run -> when a page asked last

    @property
    def stories(self) -> Mapping[int, RunStory]:
        """The stories that are here, by run."""
        return {run: story for run, story in self._stories.items() if story is not None}

    def is_unknown(self, run: int) -> bool:
        """Was the run asked for, and is there none of this number?"""
        return not _can_be(run) or (run in self._stories and self._stories[run] is None)

    def want(self, run: int) -> None:
        """Have the story of a run fetched, and kept fresh while the run is at work. Cheap, to be repeated while a page shows it."""
        if not _can_be(run):
            return
        self._asked_s[run] = self._now_s()
        if len(self._asked_s) > 2 * MAX_STORIES:
            del self._asked_s[min(self._asked_s, key=self._asked_s.__getitem__)]

    def take(self, picture: ClusterPicture) -> None:
        """Show this one from now on."""
        self.latest = picture
        self.series.add(picture, self._now_s())

    def take_story(self, run: int, story: RunStory | None, took_s: float = 0.0) -> None:
        """Keep the story of a run, which took so long to read; None: there is no such run."""
        self._stories.pop(run, None)
        self._stories[run], self._came_s[run], self._took_s[run] = story, self._now_s(), took_s
        while len(self._stories) > MAX_STORIES:
            oldest = next(iter(self._stories))
            del self._stories[oldest], self._came_s[oldest], self._took_s[oldest]

    def wanted(self) -> list[int]:
        """Runs whose story a page waits for, or that has become old; the one that was asked for last comes first, MAX_STORIES at most."""
        now_s = self._now_s()
        asked = {run: at_s for run, at_s in self._asked_s.items() if now_s - at_s <= WANTED_S}
        self._asked_s = asked
        latest = sorted(asked, key=asked.__getitem__, reverse=True)[:MAX_STORIES]  # more than are kept would push each other out
        return [run for run in latest if self._is_due(run, now_s, len(latest))]

    def _is_due(self, run: int, now_s: float, n_asked: int) -> bool:
        """n_asked: runs that share the time."""
        if run not in self._stories:
            return True
        story = self._stories[run]
        if story is not None and story.ended_at is not None and not self._is_at_work(run):
            return False
        return now_s - self._came_s[run] >= max(REFRESH_S, n_asked * self._took_s[run] / SHARE)

    def _is_at_work(self, run: int) -> bool:
        """Does the latest picture say so? A replay of dead letters opens a run again that had ended."""
        runs = () if self.latest is None else self.latest.runs
        return any(it.run == run and not it.state.is_final for it in runs)


def _can_be(run: int) -> bool:
    return 0 < run <= MAX_RUN


def to_bytes(told: ClusterPicture | RunStory) -> bytes:
    """As it travels to the scheduler: JSON, whose readers check what they are told."""
    return msgspec.json.encode(told)


def picture_from(told: bytes) -> ClusterPicture:
    """Raises msgspec.ValidationError: it is another version's."""
    return msgspec.json.decode(told, type=ClusterPicture)


def story_from(told: bytes) -> RunStory:
    """Raises msgspec.ValidationError: it is another version's."""
    return msgspec.json.decode(told, type=RunStory)
