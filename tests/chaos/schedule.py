"""Which fault comes when: everything is drawn from the seed, so that a schedule that failed can be had again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CROWD_FRACTION = 0.5
"""Of steps in which other faults come while the first is there."""
CROWD = (2, 3, 4)
"""How many there are in such a step."""
PAUSE_S = (0.2, 2.0)
"""Between two steps."""
BETWEEN_S = (0.0, 6.0)
"""From one fault of a crowd to the next."""
AWAY = frozenset({"PostgreSQL stopped fast", "PostgreSQL stopped immediate"})
"""Of these no two at once: a server is stopped once."""
SLIP = 3
"""Places in the deck after which a kind that missed comes again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault or a crowd of them. seeds: of each fault's own draws. between_s: from one to the next."""

    no: int
    kinds: tuple[str, ...]
    seeds: tuple[str, ...]
    pause_s: float
    between_s: float


class Schedule:
    """Deals kinds from a shuffled deck, so that each comes equally often; one that missed is put back near the top.

    Guarantee: the same seed and kinds, and the same misses, give the same steps. counted may be read at any time.
    """

    def __init__(self, seed: int, kinds: Sequence[str]) -> None:
        self._seed, self._kinds = seed, list(kinds)
        self._rng = random.Random(f"schedule/{seed}")
        self._deck: list[str] = []
        self.counted: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    def note(self, kind: str, *, is_counted: bool) -> None:
        """A fault of this kind was done, or could not be."""
        if is_counted:
            self.counted[kind] += 1
        else:
            self.missed[kind] += 1
            self._deck.insert(max(0, len(self._deck) - SLIP), kind)  # dealt from its end

    def steps(self) -> Iterator[Step]:
        """Steps without end."""
        no = 0
        while True:
            no += 1
            first = self._deal()
            n_faults = self._rng.choice(CROWD) if self._rng.random() < CROWD_FRACTION else 1
            pause_s, between_s = self._rng.uniform(*PAUSE_S), self._rng.uniform(*BETWEEN_S)
            kinds: list[str] = [first]
            left_out: list[str] = []
            for _ in range(min(n_faults, len(self._kinds)) - 1):
                kind = self._deal()
                (left_out if kind in kinds or {kind, *kinds} >= AWAY else kinds).append(kind)
            self._deck.extend(left_out)  # they come first in the next step
            seeds = tuple(f"{self._seed}/{no}/{kind}" for kind in kinds)
            yield Step(no, tuple(kinds), seeds, pause_s, between_s)

    def _deal(self) -> str:
        if not self._deck:
            self._deck = list(self._kinds)
            self._rng.shuffle(self._deck)
        return self._deck.pop()
