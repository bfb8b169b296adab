"""The words of Protheon as frozen values: states, manifests, leases and endings. No IO, no clock.

Words: a *run* is what a person asked for; a *load* is one source through one pipeline, once; a *chunk* is a piece of
a load and a *task* with the handler ``ingest``; an *attempt* is one try at a task by one worker process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

INGEST = "ingest"
"""The handler of chunk tasks. Any other handler belongs to the general queue."""
YOUR_PIPELINE = "--pipeline PIPELINE"
"""In a command that a notice names: only the one who typed the pipeline's reference knows it, and puts it there."""


class RunState(StrEnum):
    """State of a run; the value is what the ledger stores."""

    QUEUED = "queued"  # -> running, by the coordinator, once its sources are identified
    RUNNING = "running"  # -> any of those below
    PAUSED = "paused"  # -> running (resume), cancelled; state_reason says why
    SUCCEEDED = "succeeded"  # every line of every load is accounted for
    INCOMPLETE = "incomplete"  # ended with dead chunks, a damaged or changed source, or over the reject limit
    CANCELLED = "cancelled"  # by a person

    @property
    def is_final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.INCOMPLETE, RunState.CANCELLED)

    @property
    def is_settled(self) -> bool:
        """Nothing changes any more without a person: ended, or paused."""
        return self.is_final or self is RunState.PAUSED


class TaskState(StrEnum):
    """State of a task; the value is what the ledger stores."""

    READY = "ready"  # -> running (claim), cancelled
    RUNNING = "running"  # -> succeeded (complete), ready (release, expire), dead (dead_letter, expire), cancelled
    SUCCEEDED = "succeeded"  # final
    DEAD = "dead"  # -> ready (replay)
    CANCELLED = "cancelled"  # -> ready (replay)


class SplitState(StrEnum):
    """How far the cutting of a load's source has come."""

    PENDING = "pending"  # -> splitting
    SPLITTING = "splitting"  # -> complete, damaged, changed, pending (the broker died: it goes on after the last chunk)
    COMPLETE = "complete"  # n_chunks is known, nothing is missing
    DAMAGED = "damaged"  # what is whole was cut; n_chunks is known; the run will end incomplete
    CHANGED = "changed"  # the source changed while it was read; the run will end incomplete
    FAILED = "failed"  # the source could not be read; the run will end incomplete


class Joined(StrEnum):
    """How a run came to a load."""

    NEW = "new"  # the run made the load
    RESUMED = "resumed"  # the load was unfinished and nobody's: the run owns it now
    ATTACHED = "attached"  # another live run owns the load: this one waits with it
    SKIPPED = "skipped"  # the load was finished before


class Cost(StrEnum):
    """What the ending of an attempt is charged to its task; the caps are in config."""

    NOTHING = "nothing"  # an outage, drained, cancelled, paused, interrupted
    FAILURE = "failure"  # the pipeline or the data failed outside a line
    CRASH = "crash"  # the process died alone, or made no progress
    LOSS = "loss"  # host, nanny or one host's network lost, or a lease ran out for a reason unknown


class Outcome(StrEnum):
    """How an attempt ended; None in the ledger while it is open."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the worker said why
    RELEASED = "released"  # given back at no cost
    CRASHED = "crashed"  # its process is known to be gone
    EXPIRED = "expired"  # its lease ran out
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a dispatch saw of a task: the claim succeeds only if attempt_no is still this one."""

    task_id: int
    attempt_no: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The one argument of the function that Dask pickles: ids and numbers, no data, no secrets."""

    task_id: int
    attempt_no: int
    handler: str
    copy_no: int = 0  # of one that was handed over again while Dask still had it: a number of its own, so that answers are told apart


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. process_uuid is new at each boot, so a name that comes back is another worker."""

    process_uuid: UUID
    name: str
    host: str


@dataclass(frozen=True, slots=True)
class Lease:
    """An attempt that is ours until lease_s after its last renewal. attempt_no is the fencing token."""

    task_id: int
    attempt_no: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class ChunkManifest:
    """One chunk of a source as it was cut.

    Units: offsets and raw_bytes count in the decompressed source, BOM included; stored_bytes is the file in the workspace.
    restart_*: the nearest place before the chunk where decompression can start anew (frame or member boundary):
    restart_stored_offset in the source as stored, restart_raw_offset in the decompressed source.
    stored_bytes is 0 for an oversized line (no file; the chunk's reject is born with it): oversized is then True.
    """

    chunk_no: int  # from 1 in its load
    first_line: int  # from 1
    n_lines: int
    byte_offset: int
    raw_bytes: int
    raw_xxh3: bytes  # XXH3-128, 16 bytes, big endian
    stored_bytes: int
    stored_xxh3: bytes
    generation: int  # of the stored form, from 1
    restart_stored_offset: int = 0
    restart_raw_offset: int = 0
    restart_line: int = 1  # the line number in which the restart point lies
    oversized: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a source the same source: its stored size and an XXH3-128 (DESIGN 1), never its path or time."""

    size_bytes: int
    digest: bytes  # 16 bytes


@dataclass(frozen=True, slots=True)
class TableCount:
    """Rows of one table in one chunk. Guarantee: offered = inserted + updated + ignored, held by CHECK in the ledger."""

    table: str
    offered: int
    inserted: int
    updated: int
    ignored: int
    checksum: int | None = None  # of the rows that were offered, as a signed 64-bit number; None: not asked for, or nothing to compare
    compared: int | None = None  # names the columns that the checksum is of, with their types


REFUSALS_LOOKED = 100_000
"""Rejects among which reasons are counted: a run may refuse millions, and its summary is not to wait for them."""
MAX_REFUSALS = 10
"""Reasons that a person reads; the rejects themselves have all."""


@dataclass(frozen=True, slots=True)
class Death:
    """One reason for which chunks of a run are dead, and not purged, with the error of the first that died so."""

    n: int
    reason: str
    error_class: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason for which lines, or parts of them, are still refused, with the first of them. Not an end: a replay may load them."""

    n: int  # of those that were looked at
    n_looked: int  # for all reasons together
    path: str
    line_no: int
    part: str | None
    reason: str  # of the first; the others differ in values and numbers
    sqlstate: str | None
    table: str | None
    way_on: str | None = None  # what a person can do with the file where this line is no JSON


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """One line, or a part of one, that was refused. raw holds at most 64 KiB of raw_bytes."""

    line_no: int  # from 1 in the decompressed source
    byte_offset: int  # of the line's first byte
    part: str | None
    reason: str
    sqlstate: str | None
    table: str | None
    raw: bytes
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Lines:
    """Where every physical line of a chunk went. Guarantee: total = loaded + filtered + rejected + blank."""

    total: int = 0
    loaded: int = 0
    filtered: int = 0
    rejected: int = 0
    blank: int = 0
    rejected_parts: int = 0  # beside the identity: their lines count as loaded


STAGES = ("wait", "fetch", "decompress", "transform", "copy", "merge", "ledger", "commit")
"""Where an attempt's seconds go. ``wait`` is time for locks and for services that were away."""


@dataclass(slots=True)
class StageClock:
    """Seconds per stage and bytes of one attempt; filled as it goes. The caller brings the clock."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    raw_bytes: int = 0
    wire_bytes: int = 0
    lines: int = 0  # of the batches so far, for telemetry: what the attempt loaded is told by Loaded
    rows: int = 0  # offered, of the same
    at: tuple[str, float] | None = None  # the stage that the attempt is in, and since when; one value, for another thread reads it

    def enter(self, stage: str, now_s: float) -> float:
        """A stage begins at now_s, which is returned; its seconds are added when it ends."""
        self.at = (stage, now_s)
        return now_s

    def add(self, stage: str, seconds: float) -> None:
        """A stage ends, unless another has begun meanwhile."""
        self.seconds[stage] += seconds
        if self.at is not None and self.at[0] == stage:
            self.at = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A chunk's rows, rejects and counts are in its transaction; completing makes them stand."""

    lines: Lines
    tables: tuple[TableCount, ...]


@dataclass(frozen=True, slots=True)
class Returned:
    """A function of the general queue returned; what it wrote through its connection is in its transaction, completing makes it stand."""

    result_json: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that ended without effect, and what that costs its task."""

    cost: Cost
    error_class: str
    message: str
    traceback: str | None = None
    sqlstate: str | None = None
    pause: str | None = None  # set: the run pauses with this reason (the operator must act)
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, what was measured until then
