"""The campaign's judge: what is lost, doubled or wrong, and what else is not as it was promised, once all runs have ended.

It reads PostgreSQL by plain SQL and imports nothing of the product. Why each look can see a fault:

- ``events`` takes every row: a line that was loaded twice is there twice, one that was lost is not, and a chunk that was taken for its
  identical twin is missing as often as it has lines. ``keyed`` takes a key once: a chunk that is loaded a second time has rejects that no
  line explains. ``totals`` adds up: twice is too much, never is too little, even where rows look alike.
- ``firsts`` and ``latest`` show losses (a key is missing) and mixtures (a row that is no line's, or an older one), not doubles: the first
  writer is any one of the lines with that key, the latest any one of those with the greatest time.
- Chunks, their lines by ending and the rows that they offered are compared with the oracle's, one by one: an account that adds up
  to the wrong sum is found too.
- The stories of attempts show what the rows may hide: two owners at a time, a second success, a number left out.
- A charge must be explained by a fault that hit that very process: an outage of a service explains none, and neither does time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.chaos import judge_ledger, judge_rows, oracle
from tests.chaos.findings import Findings, Kind
from tests.chaos.judge_ledger import Interval
from tests.chaos.material import Expected

SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
STALE_WRITE, AMBIGUOUS_COMMIT = "fence.refused", "commit.resolved"
"""Events of the workers' logs: a write of an attempt that is no longer the task's was refused; an unanswered COMMIT was resolved."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found. problems: all findings in words, the first few of each kind.

    expired: attempts that were taken from workers that may have lived. stale_writes_refused, ambiguous_resolved: by the logs.
    """

    lost: int
    doubled: int
    wrong: int
    problems: list[str] = field(default_factory=list)
    expired: int = 0
    stale_writes_refused: int = 0
    ambiguous_resolved: int = 0
    n_rows: int = 0
    n_chunks: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.problems)


def judge(
    url: str, workspace: Path, expected: Expected, evidence: Sequence[Interval], *, logs: Sequence[Path] = (), grace_s: float = 5.0
) -> Verdict:
    """Judge what a campaign left, on a connection of its own.

    workspace: the directory of chunk files. logs: of all workers. grace_s: after a fault's end its effects may still come.
    Raises:    ValueError: a source is not the one that was written. psycopg.Error: PostgreSQL does not answer.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(SNAPSHOT)
        return judge_on(conn, workspace, expected, evidence, logs=logs, grace_s=grace_s)


def judge_on(
    conn: psycopg.Connection[tuple[object, ...]],
    workspace: Path,
    expected: Expected,
    evidence: Sequence[Interval],
    *,
    logs: Sequence[Path] = (),
    grace_s: float = 5.0,
) -> Verdict:
    """Judge what this connection sees, in whatever transaction it is."""
    found, answer = Findings(), oracle.answer(expected)
    judge_rows.judge_rows(conn, answer, found)
    expired = judge_ledger.judge_ledger(conn, answer, expected, evidence, grace_s, found)
    judge_ledger.judge_workspace(conn, workspace, found)
    said = events_in(logs)
    return Verdict(
        lost=found.counts[Kind.LOST],
        doubled=found.counts[Kind.DOUBLED],
        wrong=found.counts[Kind.WRONG],
        problems=found.problems(),
        expired=expired,
        stale_writes_refused=said[STALE_WRITE],
        ambiguous_resolved=said[AMBIGUOUS_COMMIT],
        n_rows=sum(answer.n_rows().values()),
        n_chunks=len(answer.chunks),
    )


def events_in(logs: Sequence[Path]) -> Counter[str]:
    """How often the two events are in these logs."""
    wanted = re.compile(rf"\b({re.escape(STALE_WRITE)}|{re.escape(AMBIGUOUS_COMMIT)})\b")
    counts: Counter[str] = Counter()
    for path in logs:
        with path.open(errors="replace") as lines:
            for line in lines:
                counts.update(wanted.findall(line))
    return counts


__all__ = ["Interval", "Verdict", "judge", "judge_on"]
