"""One frozen story of a run, live or ended, as the ledger tells it: its pages and its report draw it. None of them owns a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from protheon_dask.telemetry.statistics import RunStatistics

MAX_SPANS = 5_000
"""Attempts that a story tells one by one; of more, those without effect first, then evenly chosen ones."""
BINS = 120
"""Pieces of time that a run is cut into."""


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
    lines: int
    stage_seconds: Mapping[str, float]  # by model.STAGES


@dataclass(frozen=True, slots=True)
class Bin:
    """What was committed, and what went wrong, from start_s on for the story's bin_s."""

    start_s: float
    lines: int
    rows: int
    raw_bytes: int
    wire_bytes: int
    rejects: int
    dead_letters: int
    retries_by_cause: Mapping[str, int]
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RejectReason:
    """A reason for which lines were refused, and how many."""

    reason: str
    n: int


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run from its submission to its end, or to now."""

    statistics: RunStatistics
    submitted_at: float  # seconds of the epoch
    ended_at: float | None
    bin_s: float
    bins: tuple[Bin, ...]
    spans: tuple[Span, ...]  # in order of their start
    n_attempts: int  # of which spans may be a part
    reasons: tuple[RejectReason, ...]
    bound: str | None  # what bounded it, in words

    def to_json(self) -> dict[str, Any]:
        """A JSON value that from_json reads back."""
        return {**asdict(self), "statistics": self.statistics.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        values = dict(value)
        values["statistics"] = RunStatistics.from_json(values["statistics"])
        values["bins"] = tuple(Bin(**one) for one in values["bins"])
        values["spans"] = tuple(Span(**one) for one in values["spans"])
        values["reasons"] = tuple(RejectReason(**one) for one in values["reasons"])
        return cls(**values)
