"""Attempts at one task as a state machine: docs/model/attempts.tla in Python, step for step and name for name.

One task, two brokers that lead one after the other, and workers that freeze, thaw and die. What the ledger does in one statement is one
step; what lies between two statements may last for ever. docs/model/README.md says what is modelled and what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What the design demands; a broken variant leaves one of them out."""

    is_fenced: bool = True  # complete, and the look before it, ask for attempt_no
    is_one_transaction: bool = True  # complete is in the data's transaction
    asks_what_became: bool = True  # of an unanswered COMMIT; else the worker loads again and takes "no row" for its own earlier success
    has_advisory_lock: bool = True  # one data transaction of a task at a time
    expires_by_lease: bool = True  # or by what is known to be gone; else by the age of the attempt alone
    checks_epoch: bool = True  # a manifest is written by the broker that leads
    ends_backends: bool = True  # an expiry ends what the attempt holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may go wrong; the state space is finite and small."""

    n_workers: int = 2
    max_no: int = 3  # attempts; the task is dead after the last
    freezes: int = 1  # of each worker
    losses: int = 1  # connections that break in COMMIT
    kills: int = 1  # of all workers together


class State(NamedTuple):
    """Facts of the ledger (to rows), of the server's transactions (tx), of processes (pc to hurt), and what may still go wrong."""

    epoch: int
    cut: tuple[str, str]  # of each broker: idle, cut (its file is written), told (it has tried to write the manifest)
    file: int  # the broker whose file is in the workspace; 0: none
    manifest: int  # the broker whose file the manifest names; 0: there is no chunk yet
    task: str  # none, ready, running, succeeded, dead
    no: int  # attempt_no
    holder: int  # the worker whose attempt is open; 0: none
    out: bool  # its lease ran out
    rows: tuple[int, ...]  # committed copies of the chunk's rows, by attempt
    doomed: bool  # an expiry is about to end the backend that holds the task's advisory lock
    tx: tuple[str, ...]  # none, open, completed, sent (COMMIT is on its way), landed (committed, the answer is on its way)
    pc: tuple[str, ...]  # idle, seen, working, open, completed, sent, after, unsure, blind, blind-open, dead
    mine: tuple[int, ...]  # the attempt that a worker saw or holds
    frozen: tuple[bool, ...]
    hurt: tuple[bool, ...]  # frozen or killed since its claim
    needless: bool  # a loss was charged to an attempt that nothing had happened to
    freezes: tuple[int, ...]
    losses: int
    kills: int


class Step(NamedTuple):
    """What happened, in words; is_fault: nobody may rely on it."""

    told: str
    is_fault: bool
    state: State


HOLDS_LOCK = ("open", "completed", "sent")


def put(values: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]  # of whatever the field has
    return (*values[:at], value, *values[at + 1 :])


def initial(bounds: Bounds) -> State:
    n = bounds.n_workers
    return State(
        1, ("idle", "idle"), 0, 0, "none", 0, 0, False, (0,) * bounds.max_no, False, ("none",) * n, ("idle",) * n, (0,) * n,
        (False,) * n, (False,) * n, False, (bounds.freezes,) * n, bounds.losses, bounds.kills,
    )  # fmt: skip


def steps(s: State, design: Design, bounds: Bounds) -> Iterator[Step]:
    """All that can happen next."""
    yield from _brokers(s, design, bounds)
    for w in range(bounds.n_workers):
        if not s.frozen[w]:
            yield from _worker(s, w, design, bounds)
        yield from _server(s, w, design)
        yield from _faults(s, w)


def _ended(bounds: Bounds, no: int) -> str:
    """Where a task goes whose attempt ended without effect."""
    return "dead" if no == bounds.max_no else "ready"


def _row_is_locked(s: State, design: Design, but: int = -1) -> bool:
    """Has an open transaction completed the task? Where the completion is not in it, it never has."""
    return design.is_one_transaction and any(tx in ("completed", "sent") for w, tx in enumerate(s.tx) if w != but)


def _lock_is_free(s: State) -> bool:
    return not any(tx in HOLDS_LOCK for tx in s.tx)


def _brokers(s: State, design: Design, bounds: Bounds) -> Iterator[Step]:
    if s.cut[s.epoch - 1] == "idle" and s.manifest == 0:
        yield Step(f"Cut: broker {s.epoch} writes the chunk's file", False, s._replace(file=s.epoch, cut=put(s.cut, s.epoch - 1, "cut")))
    for b in (1, 2):
        if s.cut[b - 1] == "cut":
            told = s._replace(cut=put(s.cut, b - 1, "told"))
            if design.checks_epoch and b != s.epoch:
                yield Step(f"Tell: broker {b} writes the manifest, and is refused: LeadershipLost", False, told)
            elif s.manifest == 0:
                yield Step(f"Tell: broker {b} writes manifest and task", False, told._replace(manifest=b, task="ready"))
            else:
                yield Step(f"Tell: broker {b} writes the manifest, which is there", False, told)
    if s.epoch == 1:
        swept = s.file if s.manifest == s.file else 0
        yield Step(
            "TakeOver: broker 2 takes the lead, adopts what the ledger knows, deletes the rest", True, s._replace(epoch=2, file=swept)
        )
    if s.task == "running" and not _row_is_locked(s, design):
        h = s.holder - 1
        is_gone = s.pc[h] == "dead" and s.mine[h] == s.no
        if s.out or is_gone or not design.expires_by_lease:
            why = "its process is gone" if is_gone else "its lease ran out" if s.out else "it is old"
            yield Step(
                f"Expire: attempt {s.no} is taken back: {why}",
                False,
                s._replace(
                    task=_ended(bounds, s.no), holder=0, out=False, needless=s.needless or not s.hurt[h],
                    doomed=design.ends_backends and not _lock_is_free(s),
                ),
            )  # fmt: skip
    if s.task == "running" and not s.out and (s.frozen[s.holder - 1] or s.pc[s.holder - 1] == "dead"):
        yield Step(f"RunOut: the lease of attempt {s.no} runs out", False, s._replace(out=True))
    if s.doomed and _lock_is_free(s):
        yield Step("Terminate: nobody holds the task's lock any more", False, s._replace(doomed=False))


def _worker(s: State, w: int, design: Design, bounds: Bounds) -> Iterator[Step]:
    name, pc, tx, mine = f"worker {w + 1}", s.pc[w], s.tx[w], s.mine[w]
    ours = s.task == "running" and s.no == mine and s.holder == w + 1
    idle = s._replace(pc=put(s.pc, w, "idle"), mine=put(s.mine, w, 0), hurt=put(s.hurt, w, False), tx=put(s.tx, w, "none"))
    released = idle._replace(task=_ended(bounds, s.no), holder=0, out=False) if ours else idle

    def at(place: str, transaction: str | None = None) -> State:
        return s._replace(pc=put(s.pc, w, place), tx=put(s.tx, w, tx if transaction is None else transaction))

    if pc not in ("idle", "seen", "dead") and ours and s.out and not _row_is_locked(s, design):
        yield Step(f"Renew: {name} renews attempt {mine}", False, s._replace(out=False))
    if pc == "idle" and s.task == "ready":
        yield Step(f"See: the task is dispatched to {name}", False, at("seen")._replace(mine=put(s.mine, w, s.no)))
    elif pc == "seen":
        if s.task == "ready" and s.no == mine:
            claimed = at("working")._replace(task="running", no=s.no + 1, holder=w + 1, mine=put(s.mine, w, s.no + 1))
            yield Step(f"Claim: {name} opens attempt {s.no + 1}", False, claimed._replace(hurt=put(s.hurt, w, False)))
        else:
            yield Step(f"Claim: {name} comes too late", False, idle)
    elif pc in ("working", "blind") and (_lock_is_free(s) or not design.has_advisory_lock):
        if ours or not design.is_fenced or pc == "blind":
            yield Step(
                f"Begin: {name} opens the data transaction of attempt {mine}, and loads",
                False,
                at("open" if pc == "working" else "blind-open", "open"),
            )
        else:
            yield Step(f"Begin: {name} looks at the fence: LeaseLost", False, idle)
    elif pc in ("open", "blind-open"):
        if tx == "none":
            yield Step(f"Complete: {name} finds its connection broken{', and gives the task back' if ours else ''}", False, released)
        elif not design.is_one_transaction:
            yield Step(f"Send: {name} sends COMMIT of attempt {mine}'s rows", False, at("sent", "sent"))
        elif not _row_is_locked(s, design, but=w):
            if ours or not design.is_fenced or pc == "blind-open":
                yield Step(f"Complete: {name} completes attempt {mine}", False, at("completed", "completed"))
            else:
                yield Step(f"Complete: {name} is refused: LeaseLost; it rolls back", False, idle)
    elif pc == "completed":
        if tx == "none":
            yield Step(f"Send: {name} finds its connection broken{', and gives the task back' if ours else ''}", False, released)
        else:
            yield Step(f"Send: {name} sends COMMIT of attempt {mine}", False, at("sent", "sent"))
    elif pc == "sent" and tx == "landed":
        answered = idle if design.is_one_transaction else at("after", "none")
        yield Step(f"Answer: {name} hears that attempt {mine} is committed", False, answered)
    elif pc == "sent" and tx == "none":
        yield Step(f"Notice: {name} finds its connection broken in COMMIT", False, at("unsure"))
    elif pc == "after":
        done = idle._replace(task="succeeded", holder=0, out=False) if ours else idle
        yield Step(f"Complete: {name} completes attempt {mine} in a transaction of its own", False, done)
    elif pc == "unsure":
        if not design.asks_what_became:
            yield Step(f"Resolve: {name} loads attempt {mine} again", False, at("blind"))
        elif _lock_is_free(s) if design.has_advisory_lock else not _row_is_locked(s, design):
            if ours:
                yield Step(f"Resolve: {name} learns that attempt {mine} was not committed, and gives the task back", False, released)
            else:
                yield Step(f"Resolve: {name} learns that attempt {mine} is over", False, idle)
    elif pc == "dead" and tx == "none" and s.holder != w + 1:
        yield Step(f"Restart: {name} is started again", False, idle)


def _server(s: State, w: int, design: Design) -> Iterator[Step]:
    tx, pc, mine = s.tx[w], s.pc[w], s.mine[w]
    if tx == "sent":
        landed = s._replace(rows=put(s.rows, mine - 1, s.rows[mine - 1] + 1), tx=put(s.tx, w, "landed" if pc == "sent" else "none"))
        is_completion = design.is_one_transaction and s.task == "running" and (s.no == mine or not design.is_fenced)
        if is_completion:
            landed = landed._replace(task="succeeded", holder=0, out=False)
        yield Step(f"Land: attempt {mine}'s rows{' and its end' if is_completion else ''} are committed", False, landed)
    ended = s._replace(tx=put(s.tx, w, "none"))
    if tx in HOLDS_LOCK and (pc == "dead" or (tx == "sent" and pc == "unsure")):
        yield Step(f"Abort: the server rolls back the transaction of worker {w + 1}, whose connection is gone", False, ended)
    is_stuck = design.ends_backends and s.task == "running" and s.out and tx in ("completed", "sent")
    if tx in HOLDS_LOCK and design.has_advisory_lock and (s.doomed or is_stuck):
        yield Step(f"Terminate: the backend of worker {w + 1}, which holds the task's lock, is ended", False, ended._replace(doomed=False))


def _faults(s: State, w: int) -> Iterator[Step]:
    name, pc = f"worker {w + 1}", s.pc[w]
    if s.frozen[w]:
        yield Step(f"Thaw: {name} goes on", True, s._replace(frozen=put(s.frozen, w, False)))
    elif pc not in ("idle", "dead") and s.freezes[w]:
        frozen = s._replace(frozen=put(s.frozen, w, True), hurt=put(s.hurt, w, True), freezes=put(s.freezes, w, s.freezes[w] - 1))
        yield Step(f"Freeze: {name} stands still", True, frozen)
    if pc not in ("idle", "dead") and s.kills:
        dead = s._replace(
            pc=put(s.pc, w, "dead"), hurt=put(s.hurt, w, True), frozen=put(s.frozen, w, False), kills=s.kills - 1,
            tx=put(s.tx, w, "none" if s.tx[w] == "landed" else s.tx[w]),
        )  # fmt: skip
        yield Step(f"Kill: {name} dies", True, dead)
    if pc == "sent" and s.losses and s.tx[w] != "none":
        left = "none" if s.tx[w] == "landed" else s.tx[w]
        broken = s._replace(pc=put(s.pc, w, "unsure"), tx=put(s.tx, w, left), losses=s.losses - 1)
        yield Step(f"Break: the connection of {name} breaks in COMMIT", True, broken)


INVARIANTS: dict[str, Callable[[State], bool]] = {
    "AtMostOnce: a chunk's rows are committed at most once": lambda s: sum(s.rows) <= 1,
    "RowsAndEndTogether: rows are there if and only if the task has succeeded": lambda s: (sum(s.rows) > 0) == (s.task == "succeeded"),
    "NeverSideBySide: a task has at most one open data transaction": lambda s: sum(tx in HOLDS_LOCK for tx in s.tx) <= 1,
    "NoNeedlessLoss: an attempt is taken back only from a worker that stood still or died": lambda s: not s.needless,
    "ManifestHasFile: the file that a manifest names is the one that is there": lambda s: s.manifest in (0, s.file),
}
END = ("succeeded", "dead")
