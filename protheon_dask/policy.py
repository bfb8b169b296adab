"""Decisions from numbers: what an ending costs, when a task comes back, how large chunks are. No IO, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from protheon_dask.model import Cost


@dataclass(frozen=True, slots=True)
class Retry:
    """The task becomes ready again after delay_s."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The task is dead; reason goes into its dead letter."""

    reason: str


COST_WORDS: Mapping[Cost, str] = {
    Cost.FAILURE: "failed",
    Cost.CRASH: "crashed or stalled its worker",
    Cost.LOSS: "lost with its worker",
    Cost.NOTHING: "released",
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Backoff base_s * 2^(n-1), capped at cap_s, spread by +-jitter (a fraction) so that a batch does not return as one."""

    caps: Mapping[Cost, int]  # dead at this many endings of a kind
    base_s: float
    cap_s: float
    jitter: float

    def dead_at(self, cost: Cost, n: int) -> RetryPolicy:
        """The same, but for one cap: of a task that has its own."""
        return replace(self, caps={**self.caps, cost: n})

    def decide(self, cost: Cost, n: int, u: float) -> Retry | GiveUp:
        """n: how often this task has ended at this cost, this time included; u in [0, 1)."""
        if cost is Cost.NOTHING:
            return Retry(0.0)
        if n >= self.caps[cost]:
            return GiveUp(f"{COST_WORDS[cost]} {'once' if n == 1 else f'{n} times'}")
        if cost is not Cost.FAILURE:
            return Retry(0.0)
        delay_s = min(self.cap_s, self.base_s * 2.0 ** min(n - 1, 30))  # 2^30 s: beyond any cap, below overflow
        return Retry(delay_s * (1.0 + self.jitter * (2.0 * u - 1.0)))


LINE_FAULTS = ("22", "23")
LINE_FAULT_STATES = ("54000", "54001", "P0001")
NO_COST_CLASSES = ("40", "53", "57", "58", "08")
NO_COST_STATES = ("55P03", "25P03", "25P04")  # a lock that was not free in time; a transaction that the server ended for its age
OPERATOR_CLASSES = ("28", "3D", "42", "0A")
OPERATOR_STATES = ("25006", "53400")  # a server that only reads; a limit of the server's settings, which does not pass by itself


@dataclass(frozen=True, slots=True)
class Blame:
    """Whose fault an SQLSTATE is. Exactly one is true, or none: then it is a plain failure."""

    line: bool = False
    nobody: bool = False
    operator: bool = False


def blame(sqlstate: str | None) -> Blame:
    """Tell whose fault a PostgreSQL error is, by its SQLSTATE alone; None is a lost connection."""
    if sqlstate is None:
        return Blame(nobody=True)
    if sqlstate.startswith(LINE_FAULTS) or sqlstate in LINE_FAULT_STATES:
        return Blame(line=True)
    if sqlstate.startswith(OPERATOR_CLASSES) or sqlstate in OPERATOR_STATES:
        return Blame(operator=True)
    if sqlstate.startswith(NO_COST_CLASSES) or sqlstate in NO_COST_STATES:
        return Blame(nobody=True)
    return Blame()


REJECT_LIMIT = "reject limit of"
"""How the reason of a run begins that paused at its reject limit."""
OVER_LIMIT = "over the reject limit of"
"""How the reason begins, one among others, for which a run that was judged at its end is incomplete."""


@dataclass(frozen=True, slots=True)
class RejectLimit:
    """How many rejected lines a run bears: a number of lines, or a fraction from min_lines of the run on."""

    lines: int | None = None
    fraction: float | None = None
    min_lines: int = 10_000

    def is_crossed(self, rejected: int, total: int, *, at_end: bool = False) -> bool:
        """rejected of total physical lines so far. A limit itself is still within; at_end judges runs of any size."""
        if self.lines is not None:
            return rejected > self.lines
        if self.fraction is None or (total < self.min_lines and not at_end):
            return False
        return total > 0 and rejected > self.fraction * total

    def __str__(self) -> str:
        if self.lines is not None:
            return "1 line" if self.lines == 1 else f"{self.lines} lines"
        return "no limit" if self.fraction is None else f"{self.fraction * 100:g}%"


def auto_chunk_lines(estimated_lines: int, n_threads: int) -> int:
    """Lines a chunk so that each thread gets about eight, within 1,000 to 50,000 (DESIGN 2)."""
    return max(1_000, min(50_000, -(-estimated_lines // (8 * max(1, n_threads)))))


def dispatch_window(n_threads: int, window_per_thread: int = 3) -> int:
    """How many tasks are with Dask at a time: enough to keep fast hosts busy, few enough to lose nothing by."""
    return max(1, n_threads) * window_per_thread
