"""What a judge found, counted by kind; the first few of each are said in words. Imports nothing of the product."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

MAX_SAID = 5
"""Findings of one kind and place that are said one by one; the rest are counted."""


class Kind(StrEnum):
    """What is wrong. The first three are the campaign's figures; any finding at all fails it."""

    LOST = "lost"  # it must be there and is not
    DOUBLED = "doubled"  # it is there more often than it must be
    WRONG = "wrong"  # it is there and must not be, or it is not what it must be
    BROKEN = "broken"  # the ledger, the workspace or a charge is not as promised


@dataclass(slots=True)
class Findings:
    """Collects findings; n rows, or sums, may be behind one."""

    counts: Counter[Kind] = field(default_factory=Counter)
    _said: dict[tuple[Kind, str], list[str]] = field(default_factory=dict)
    _unsaid: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def add(self, kind: Kind, place: str, text: str, n: int = 1) -> None:
        """place: a table, or a part of the ledger; text: which one and what of it."""
        self.counts[kind] += n
        said = self._said.setdefault((kind, place), [])
        if len(said) < MAX_SAID:
            said.append(text)
        else:
            self._unsaid[kind, place] += 1

    def problems(self) -> list[str]:
        """All findings as sentences, the figures' kinds first."""
        sentences = []
        for (kind, place), said in sorted(self._said.items(), key=lambda item: list(Kind).index(item[0][0])):
            sentences += [f"{kind}: {place}: {text}" for text in said]
            if n_unsaid := self._unsaid[kind, place]:
                sentences.append(f"{kind}: {place}: and {n_unsaid} more like these")
        return sentences
