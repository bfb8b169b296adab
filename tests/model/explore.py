"""Look at every state that the model of attempts can reach, and tell the shortest story of each thing that goes wrong.

``python -m tests.model.explore`` prints what was found of the design and of each variant of it that is broken on purpose.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tests.model.attempts import END, INVARIANTS, Bounds, Design, State, initial, steps

VARIANTS: dict[str, tuple[Design, str]] = {
    "NoFence": (Design(is_fenced=False), "AtMostOnce"),
    "CompleteOutside": (Design(is_one_transaction=False), "AtMostOnce"),
    "BlindRetry": (Design(asks_what_became=False), "AtMostOnce"),
    "NoAdvisoryLock": (Design(has_advisory_lock=False), "NeverSideBySide"),
    "ExpireByAge": (Design(expires_by_lease=False), "NoNeedlessLoss"),
    "NoEpoch": (Design(checks_epoch=False), "ManifestHasFile"),
}
"""Broken on purpose -> the invariant that breaks."""
NO_TERMINATE = Design(ends_backends=False)
"""Breaks no invariant: a task whose worker stands still for ever holds it for ever. Found as a trap."""


@dataclass(frozen=True, slots=True)
class Explored:
    """What was seen. story: how the first state that breaks an invariant, or a trap, is reached; empty if all is well."""

    n_states: int
    n_steps: int
    broken: str | None
    story: Sequence[str]


def explore(design: Design, bounds: Bounds, *, only: str | None = None) -> Explored:
    """Breadth first, so the story is the shortest one. only: the name of the one invariant that is looked at.

    A trap is a state with a worker that does not stand still from which no steps but faults lead to an end.
    """
    checks = {told: holds for told, holds in INVARIANTS.items() if only is None or told.startswith(f"{only}:")}
    assert checks, only
    first = initial(bounds)
    came: dict[State, tuple[State, str] | None] = {first: None}
    back: dict[State, list[State]] = {}
    queue, n_steps = deque([first]), 0
    while queue:
        state = queue.popleft()
        for told, holds in checks.items():
            if not holds(state):
                return Explored(len(came), n_steps, told, story_of(came, state))
        for step in steps(state, design, bounds):
            n_steps += 1
            if not step.is_fault:
                back.setdefault(step.state, []).append(state)
            if step.state not in came:
                came[step.state] = (state, step.told)
                queue.append(step.state)
    reaches = {state for state in came if state.task in END}
    open_ends = deque(reaches)
    while open_ends:
        for before in back.get(open_ends.popleft(), ()):
            if before not in reaches:
                reaches.add(before)
                open_ends.append(before)
    for state in came:  # in the order in which they were found: the nearest first
        if state not in reaches and not all(state.frozen):
            return Explored(len(came), n_steps, "trap: nothing but luck leads on", story_of(came, state))
    return Explored(len(came), n_steps, None, ())


def story_of(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    told: list[str] = []
    while (before := came[state]) is not None:
        state, what = before
        told.append(what)
    return told[::-1]


def main() -> None:
    bounds = Bounds()
    cases = {"attempts (the design)": (Design(), None), **VARIANTS, "NoTerminate": (NO_TERMINATE, None)}
    as_meant = True
    for name, (design, only) in cases.items():
        found = explore(design, bounds, only=only)
        print(f"{name}: {found.n_states:,} states, {found.n_steps:,} steps: {found.broken or 'all is well'}")
        for no, told in enumerate(found.story, start=1):
            print(f"  {no:2}. {told}")
        as_meant &= (found.broken is None) == (design == Design())
    sys.exit(0 if as_meant else 1)


if __name__ == "__main__":
    main()
