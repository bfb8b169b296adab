"""From the ledger's answers to the one frozen story of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
from protheon_dask.telemetry.story import BINS, LEAST_BIN_S, MAX_FILES, MAX_SPANS, Bin, RejectReason, RunStory, Span, StoryFile

CAUSES: Final = (Outcome.FAILED, Outcome.RELEASED, Outcome.CRASHED, Outcome.EXPIRED)
"""How an attempt can end that is followed by another."""
MOST_BUSY: Final = 0.95
"""Share of the pieces of time in which not more attempts were at work."""
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
        reasons=tuple(RejectReason(refusal.reason, refusal.n) for refusal in statistics.refusals),
        bound=_bound(statistics, bins, bin_s, facts),
        settings=_settings(facts),
        files=tuple(StoryFile(**row) for row in files),
        n_workers=facts["n_workers"],
        n_hosts=facts["n_hosts"],
    )


def _bound(statistics: RunStatistics, bins: Sequence[Bin], bin_s: float, facts: Mapping[str, Any]) -> str | None:
    """What bounded the run, from where its attempts' seconds went and how many were at work side by side.

    How many workers there were at a time nobody has written down: as many as were at work for a twentieth of the time. Pieces of time
    without any attempt are left out (a pause is no lack of work), as are the first one and the last, which are parts.
    """
    at_work = [sum(piece.stage_seconds.values()) / bin_s for piece in bins if piece.stage_seconds]
    at_work = at_work[1:-1] or at_work
    if not at_work:
        return None
    busy = sorted(at_work)[int(len(at_work) * MOST_BUSY)]
    n_workers = max(1, min(facts["n_workers"], round(busy)))
    last_s = max(piece.start_s for piece in bins if piece.stage_seconds)
    return bound_of(
        statistics.stage_seconds,
        n_workers,
        utilization=sum(at_work) / len(at_work) / n_workers,
        is_cutting=facts["cut_s"] is not None and facts["cut_s"] > MOSTLY * last_s,
    )


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
