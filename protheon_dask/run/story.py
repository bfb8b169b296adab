"""From the ledger's answers to the one frozen story of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from protheon_dask import words
from protheon_dask.errors import NotFound
from protheon_dask.ledger import runs, stories
from protheon_dask.ledger.connect import Connection
from protheon_dask.model import STAGES, Outcome
from protheon_dask.run.rejects import with_reasons
from protheon_dask.run.statistics import statistics_of
from protheon_dask.telemetry.bound import bound_of
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.story import BINS, LEAST_BIN_S, MAX_FILES, MAX_SPANS, Bin, RunStory, Span, StoryFile

CAUSES: Final = (Outcome.FAILED, Outcome.RELEASED, Outcome.CRASHED, Outcome.EXPIRED)
"""How an attempt can end that is followed by another."""
MAX_PROCESSES: Final = 5_000
"""Worker processes that are asked about; of more, those with most attempts."""
PAUSE_S: Final = 10.0
"""Without an attempt for so long, a run is taken to have been paused, or its cluster to have been away."""
SPARE: Final = 0.25
"""Of a worker, in the mean: one that was there for less is not counted."""
MOSTLY: Final = 0.8
"""Share of the time of its attempts up to which a run's files were cut, if cutting is what they waited for."""


def story_of(conn: Connection, run_id: int) -> RunStory:
    """The story of a run, live or ended, from the ledger alone.

    Raises:    NotFound.
    Guarantee: reads only, in one snapshot, so that its parts agree. Bounded in size whatever the run's: BINS pieces of time, MAX_SPANS
               attempts, MAX_FILES files.
    """
    with stories.snapshot(conn):
        facts = stories.run_facts(conn, run_id)
        if facts is None:
            raise NotFound(f"there is no run {run_id}: `protheon runs` lists them")
        statistics = with_reasons(conn, statistics_of(conn, run_id))
        n_bins = max(1, min(BINS, math.ceil(statistics.seconds / LEAST_BIN_S)))
        bin_s = max(LEAST_BIN_S, statistics.seconds / n_bins)
        pieces = stories.pieces(conn, run_id, bin_s, n_bins)
        spans = stories.spans(conn, run_id, MAX_SPANS)
        processes = stories.processes(conn, run_id, MAX_PROCESSES)
        files = stories.files(conn, run_id, MAX_FILES)
    bins = tuple(_bin(no * bin_s, pieces.get(no, {})) for no in range(n_bins))
    return RunStory(
        statistics=statistics,
        submitted_at=facts["submitted_at"],
        ended_at=facts["ended_at"],
        bin_s=bin_s,
        bins=bins,
        spans=tuple(_span(row) for row in spans),
        n_attempts=facts["n_attempts"],
        bound=_bound(statistics, bins, bin_s, processes, facts["cut_s"]),
        settings=_settings(facts),
        files=tuple(StoryFile(**row) for row in files),
        n_workers=facts["n_workers"],
        n_hosts=facts["n_hosts"],
    )


def _bound(
    statistics: RunStatistics, bins: Sequence[Bin], bin_s: float, processes: Sequence[Mapping[str, float]], cut_s: float | None
) -> str | None:
    """What bounded the run, from where its attempts' seconds went, and for how much of its time a process had none.

    Times of PAUSE_S and more in which no process had any are left out: a pause is no lack of work.
    """
    at_work: list[bool] = []
    for is_busy, stretch in groupby(bool(piece.stage_seconds) for piece in bins):
        n = len(list(stretch))
        at_work += [is_busy or n * bin_s < PAUSE_S] * n
    there_s = sum(_within(one["first_s"], one["last_s"], at_work, bin_s) for one in processes)
    if not there_s or not any(at_work):
        return None
    mean_workers = there_s / (sum(at_work) * bin_s)
    last_s = max(one["last_s"] for one in processes)
    return bound_of(
        statistics.stage_seconds,
        max(1, math.ceil(mean_workers - SPARE)),
        utilization=sum(one["busy_s"] for one in processes) / there_s,
        is_cutting=cut_s is not None and cut_s > MOSTLY * last_s,
    )


def _within(first_s: float, last_s: float, at_work: Sequence[bool], bin_s: float) -> float:
    """Seconds between these two in pieces of time in which anybody was at work; what ends after the last piece belongs to it."""
    first, last = (min(len(at_work) - 1, int(at_s / bin_s)) for at_s in (max(0.0, first_s), max(0.0, last_s)))
    idle_s = sum(bin_s for no in range(first + 1, last) if not at_work[no])
    return max(0.0, last_s - first_s - idle_s)


def _bin(start_s: float, row: Mapping[str, Any]) -> Bin:
    return Bin(
        start_s=round(start_s, 3),
        **{name: row.get(name, 0) for name in ("lines", "rows", "raw_bytes", "wire_bytes", "rejects", "dead_letters")},
        retries_by_cause={str(cause): row[cause] for cause in CAUSES if row.get(cause)},
        stage_seconds=_seconds(row),
    )


def _span(row: dict[str, Any]) -> Span:
    seconds = _seconds(row)
    values = {name: value for name, value in row.items() if name.removesuffix("_s") not in STAGES}
    end_s = values.pop("end_s")
    return Span(
        **{**values, "start_s": round(values["start_s"], 3)}, end_s=None if end_s is None else round(end_s, 3), stage_seconds=seconds
    )


def _seconds(row: Mapping[str, Any]) -> dict[str, float]:
    """By stage, to the tenth of a millisecond; those without any are left out."""
    return {stage: seconds for stage in STAGES if (seconds := round(row.get(f"{stage}_s", 0.0), 4))}


def _settings(facts: Mapping[str, Any]) -> dict[str, str]:
    """What was set for the run, in words, in the order in which a person asks."""
    reference = facts["reference"]
    told = {"pipeline version": facts["pipeline_version"]}
    if reference is not None:
        told["pipeline code"] = reference or "sent by value, from where it was submitted"
    if facts["most_chunk_lines"] is not None:
        least, most = words.count(facts["least_chunk_lines"]), words.count(facts["most_chunk_lines"])
        chosen = "" if facts["chunk_lines"] else ", chosen by size"
        told["lines a chunk"] = f"{most if least == most else f'{least} to {most}'} at most{chosen}"
    told["reject limit"] = str(runs.reject_limit(facts["reject_limit_lines"], facts["reject_limit_fraction"]))
    told["checksums of rows"] = "kept" if facts["checksum"] else "not kept"
    versions: Mapping[str, str] = json.loads(facts["versions"] or "{}")
    if versions:
        told["made with"] = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return told
