"""One frozen story of a run, live or ended, as the ledger tells it: its pages and its report draw it. None of them owns a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from protheon_dask.telemetry.statistics import RunStatistics

MAX_SPANS = 5_000
"""Attempts that a story tells one by one; of more, those without effect first (a fifth is kept for the others), evenly chosen ones."""
BINS = 120
"""Pieces of time that a run is cut into, at most."""
LEAST_BIN_S = 0.25
"""A shorter piece holds the commit of one chunk or none."""
MAX_FILES = 50
"""Files that a story names; of more, those first that need a person."""


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt. Times in seconds since the run was submitted."""

    task_id: int
    attempt_no: int
    chunk_no: int | None
    path: str | None
    worker: str
    host: str
    start_s: float
    end_s: float | None  # None: it runs
    outcome: str | None  # of model.Outcome
    cost: str | None
    error_class: str | None
    message: str | None
    lines: int  # of its chunk
    stage_seconds: Mapping[str, float]  # by model.STAGES; not known of one that runs


@dataclass(frozen=True, slots=True)
class Bin:
    """What the run's own attempts committed, and what went wrong, from start_s on for the story's bin_s."""

    start_s: float
    lines: int
    rows: int  # offered
    raw_bytes: int
    wire_bytes: int  # of attempts that succeeded
    rejects: int  # lines, and parts of lines
    dead_letters: int
    retries_by_cause: Mapping[str, int]  # by model.Outcome of attempts that were to be followed by another
    stage_seconds: Mapping[str, float]  # of all attempts that have ended, each spread over the time that it took


@dataclass(frozen=True, slots=True)
class StoryFile:
    """One file of the run. Counts are of whoever loaded it."""

    path: str
    joined: str  # of model.Joined
    split_state: str  # of model.SplitState
    split_message: str | None
    size_bytes: int  # as stored
    is_finished: bool
    undone: bool  # or being undone
    chunks: int  # cut so far
    chunks_done: int
    chunks_dead: int
    lines: int  # committed
    rejected: int


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run from its submission to its end, or to now, and its own attempts: what other runs had loaded before is in statistics only."""

    statistics: RunStatistics
    submitted_at: float  # seconds of the epoch
    ended_at: float | None
    bin_s: float
    bins: tuple[Bin, ...]
    spans: tuple[Span, ...]  # in order of their start
    n_attempts: int  # of which spans may be a part
    bound: str | None  # what bounded it, in words
    settings: Mapping[str, str] = field(default_factory=dict)  # those that mattered, by name, in words
    files: tuple[StoryFile, ...] = ()  # at most MAX_FILES of statistics.files
    n_workers: int = 0  # that made its attempts
    n_hosts: int = 0

    @property
    def as_of(self) -> float:
        """Seconds of the epoch: when it was told, or the run ended."""
        return self.submitted_at + self.statistics.seconds

    def to_json(self) -> dict[str, Any]:
        """A JSON value that from_json reads back."""
        return {**asdict(self), "statistics": self.statistics.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        values = dict(value)
        values["statistics"] = RunStatistics.from_json(values["statistics"])
        values["bins"] = tuple(Bin(**one) for one in values["bins"])
        values["spans"] = tuple(Span(**one) for one in values["spans"])
        values["files"] = tuple(StoryFile(**one) for one in values.get("files", ()))
        return cls(**values)
