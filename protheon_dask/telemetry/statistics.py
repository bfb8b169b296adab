"""One frozen picture of a run: what the card, the command line and the pages draw. None of them owns a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from protheon_dask.model import Death, Refusal, RunState, TableCount


@dataclass(frozen=True, slots=True, repr=False)
class RunStatistics:
    """A run as the ledger knows it: committed work only, so nothing here ever runs backwards.

    Totals are over the run's loads, whoever loaded them. own_*, retries, seconds and wire_bytes are this run's own.
    Units: *_bytes of raw text unless named; seconds of wall time since submit.
    """

    run: int
    state: RunState
    reason: str | None  # why it is paused, incomplete or cancelled; while it runs: what it waits for, or makes at its end
    pipeline: str
    paths: tuple[str, ...]
    notices: tuple[str, ...]
    files: int
    files_done: int
    skipped_files: int
    attached_files: int
    split_done: bool  # every source was cut to its end: chunks and lines are final
    estimated_lines: int  # over all files: exact where cut, from a sample elsewhere
    chunks: int  # cut so far
    chunks_ready: int
    chunks_running: int
    chunks_done: int
    chunks_dead: int  # with those that were purged, which dead_letters leaves out
    chunks_cancelled: int
    lines: int  # committed: loaded + filtered + rejected + blank
    loaded: int
    filtered: int
    rejected: int
    blank: int
    rejected_parts: int
    rows: tuple[TableCount, ...]
    dead_letters: int
    retries: int
    own_lines: int
    own_raw_bytes: int
    seconds: float
    raw_bytes: int
    wire_bytes: int
    stage_seconds: Mapping[str, float]  # by model.STAGES, over the run's own succeeded attempts
    gone_on_by: tuple[int, ...] = ()  # runs that have all files which this one left unfinished: it is not it that goes on with them

    refusals: tuple[Refusal, ...] = ()  # once it has ended or paused: why lines are still refused, the commonest reasons
    behind: tuple[int, ...] = ()  # while none of its chunks was taken up: runs whose chunks are taken before its first one
    chunks_before: int = 0  # these chunks, counted up to 1,000
    chunks_later: int = 0  # of chunks_ready: failed, and not to be tried again before a pause is over
    next_try_s: float | None = None  # until the first of chunks_ready is due
    last_error: str | None = None  # class of the error of that one, asked while no chunk can be worked on
    last_message: str | None = None
    deaths: tuple[Death, ...] = ()  # once it has ended or paused: why chunks are dead, the commonest reasons first
    replayed: int = 0  # once it has ended or paused: of rejected, lines that are refused no more, at least
    replayed_by: tuple[int, ...] = ()  # runs of refused lines that took them, the latest first

    @property
    def is_pausing(self) -> bool:
        """Is there nothing to do at this moment but to wait until chunks that failed are tried again?"""
        return self.state is RunState.RUNNING and 0 < self.chunks_later == self.chunks_ready and not self.chunks_running

    @property
    def lines_per_s(self) -> float:
        return self.own_lines / self.seconds if self.seconds > 0 else 0.0

    @property
    def rows_per_s(self) -> float:
        """Rows offered, by the share of lines that is this run's own."""
        offered = sum(count.offered for count in self.rows)
        return offered * (self.own_lines / self.lines) / self.seconds if self.seconds > 0 and self.lines else 0.0

    @property
    def raw_mb_per_s(self) -> float:
        """10^6 bytes of raw text a second."""
        return self.own_raw_bytes / 1e6 / self.seconds if self.seconds > 0 else 0.0

    @property
    def fraction(self) -> float:
        """Committed lines of those there are, within 0 and 1; exact once everything was cut."""
        return min(1.0, self.lines / self.estimated_lines) if self.estimated_lines else float(self.state.is_final)

    def summary(self) -> dict[str, Any]:
        """The object that ``protheon load --json`` prints: a contract."""
        return {
            "run": self.run,
            "state": str(self.state),
            "files": self.files,
            "chunks": self.chunks,
            "lines": self.lines,
            "loaded": self.loaded,
            "filtered": self.filtered,
            "rejected": self.rejected,
            "blank": self.blank,
            "rows": {c.table: {"inserted": c.inserted, "updated": c.updated, "ignored": c.ignored} for c in self.rows},
            "dead_letters": self.dead_letters,
            "retries": self.retries,
            "seconds": round(self.seconds, 3),
            "lines_per_s": round(self.lines_per_s, 1),
            "raw_bytes": self.raw_bytes,
            "wire_bytes": self.wire_bytes,
            "skipped_files": self.skipped_files,
        }

    def to_json(self) -> dict[str, Any]:
        """A JSON value that from_json reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        values = dict(value)
        values["state"] = RunState(values["state"])
        for name in ("paths", "notices", "gone_on_by", "behind", "replayed_by"):
            values[name] = tuple(values.get(name, ()))
        values["rows"] = tuple(TableCount(**count) for count in values["rows"])
        values["refusals"] = tuple(Refusal(**refusal) for refusal in values.get("refusals", ()))
        values["deaths"] = tuple(Death(**death) for death in values.get("deaths", ()))
        return cls(**values)

    def __repr__(self) -> str:
        """The run on a line, at a prompt and in logs. Its fields are for programs, and too many to be looked at."""
        from protheon_dask.telemetry.card import runs_text

        return f"<{runs_text((self,))}>"

    def _repr_html_(self) -> str:
        """At the end of a cell: the run in a row."""
        from protheon_dask.telemetry.card import runs_html

        return runs_html((self,))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  # IPython's signature; the value holds no cycle
        from protheon_dask.telemetry.card import runs_text

        printer.text(runs_text((self,)))
