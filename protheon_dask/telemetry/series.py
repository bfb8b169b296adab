"""What the scheduler keeps of the pictures that it was sent, for everybody who draws them over time. Pure: the caller brings the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from protheon_dask.telemetry.pace import Pace, Rates
from protheon_dask.telemetry.picture import ClusterPicture
from protheon_dask.telemetry.story import RunStory

KEPT: Final = 900
"""Samples: 15 minutes of one a second."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The few numbers of a picture that are drawn over time. Totals only rise."""

    at: float  # seconds of the epoch
    lines_per_s: float
    rows_per_s: float
    raw_bytes_per_s: float
    wire_bytes_per_s: float
    rejects: int
    dead_letters: int
    retries_by_cause: Mapping[str, int]
    look_ahead_chunks: int
    workspace_bytes: int
    oldest_ready_s: float | None

    @classmethod
    def of(cls, picture: ClusterPicture) -> Sample:
        flow, totals = picture.flow, picture.totals
        return cls(
            at=picture.at,
            lines_per_s=flow.lines_per_s,
            rows_per_s=flow.rows_per_s,
            raw_bytes_per_s=flow.raw_bytes_per_s,
            wire_bytes_per_s=flow.wire_bytes_per_s,
            rejects=totals.rejects,
            dead_letters=totals.dead_letters,
            retries_by_cause=totals.retries_by_cause,
            look_ahead_chunks=picture.look_ahead_chunks,
            workspace_bytes=picture.workspace_bytes,
            oldest_ready_s=picture.oldest_ready_s,
        )


class Series:
    """Samples of the last minutes, the pace of each run, and how far each run's bar has come. Bounded; not thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._paces: dict[int, Pace] = {}
        self._highest: dict[int, float] = {}
        self._heard_s: float | None = None

    def add(self, picture: ClusterPicture, now_s: float) -> None:
        """Take a picture that has just come; one older than the last counts as heard and no more. now_s: a clock that only rises."""
        self._heard_s = now_s
        if self._samples and picture.at <= self._samples[-1].at:
            return
        self._samples.append(Sample.of(picture))
        told = {run.run for run in picture.runs}
        self._paces = {run: pace for run, pace in self._paces.items() if run in told}
        self._highest = {run: fraction for run, fraction in self._highest.items() if run in told}
        for run in picture.runs:
            self._highest[run.run] = max(run.fraction, self._highest.get(run.run, 0.0))
            self._paces.setdefault(run.run, Pace()).add(run, picture.at)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def since(self, at: float) -> list[Sample]:
        """The samples after that moment, oldest first. Costs as much as there are such."""
        newer = []
        for sample in reversed(self._samples):
            if sample.at <= at:
                break
            newer.append(sample)
        return newer[::-1]

    def rates(self, run: int, now_s: float) -> Rates:
        """How fast a run of the last picture is, by the pictures' own times; while none comes, it slows down."""
        pace, silent_s = self._paces.get(run), self.silent_s(now_s)
        return Rates() if pace is None or silent_s is None else pace.rates(self._samples[-1].at + silent_s)

    def fraction(self, run: int) -> float:
        """The highest share of its lines that the run was ever told to have committed: an estimate that grows takes no bar back."""
        return self._highest.get(run, 0.0)

    def silent_s(self, now_s: float) -> float | None:
        """For how long no picture has come; None: none ever came."""
        return None if self._heard_s is None else max(0.0, now_s - self._heard_s)


class Told(Protocol):
    """What pages ask of the scheduler's plugin ``protheon``."""

    @property
    def latest(self) -> ClusterPicture | None:
        """The picture that came last."""

    @property
    def series(self) -> Series:
        """What came before it."""

    @property
    def stories(self) -> Mapping[int, RunStory]:
        """Those that were asked for, and have come."""

    def want(self, run: int) -> None:
        """Ask the broker for the run's story, anew if it is there: it is in stories within seconds. Cheap, and safe to repeat."""

    def is_unknown(self, run: int) -> bool:
        """Was the run asked for, and is there none of this number?"""
