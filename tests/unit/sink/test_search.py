"""The search for refused lines: which it finds, and in how many tries."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.sink.search import find_refused


class Batch:
    """Lines of which some are bad, and some carry a key that an accepted line may have taken."""

    def __init__(self, keys: list[int | None]) -> None:
        self.keys = keys  # None: bad by itself
        self.accepted: list[int] = []
        self.n_tries = 0
        self.cause: int | None = None  # the line that the last try was refused for

    def attempt(self, start: int, stop: int) -> str | None:
        assert not self.accepted or start > self.accepted[-1]
        self.n_tries += 1
        self.cause = None
        taken = {self.keys[line] for line in self.accepted}
        for line in range(start, stop):
            self.cause = line
            if self.keys[line] is None:
                return "bad"
            if self.keys[line] in taken:
                return "duplicate"
            taken.add(self.keys[line])
        self.accepted += range(start, stop)
        return None

    def expected(self) -> dict[int, str]:
        seen: set[int | None] = set()
        refused = {}
        for line, key in enumerate(self.keys):
            if key is None or key in seen:
                refused[line] = "bad" if key is None else "duplicate"
            else:
                seen.add(key)
        return refused


@given(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=80))
def test_exactly_the_bad_lines_and_the_later_duplicates_are_refused(keys: list[int | None]) -> None:
    batch = Batch(keys)
    assert find_refused(len(keys), batch.attempt) == batch.expected()
    assert batch.accepted == [line for line in range(len(keys)) if line not in batch.expected()]


@given(st.integers(1, 4096), st.data())
def test_one_bad_line_costs_a_logarithm_of_tries(n_lines: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, n_lines - 1))
    batch = Batch([None if line == bad else line for line in range(n_lines)])
    assert list(find_refused(n_lines, batch.attempt)) == [bad]
    assert batch.n_tries <= 3 * math.log2(n_lines) + 4


def test_a_batch_of_bad_lines_costs_little_more_than_a_try_for_each() -> None:
    batch = Batch([None] * 2000)
    assert len(find_refused(2000, batch.attempt)) == 2000
    assert batch.n_tries <= 2000 + 12


@given(st.integers(0, 1999), st.integers(0, 1999))
def test_two_bad_lines_cost_two_logarithms(one: int, other: int) -> None:
    batch = Batch([None if line in (one, other) else line for line in range(2000)])
    assert set(find_refused(2000, batch.attempt)) == {one, other}
    assert batch.n_tries <= 70


@given(st.sets(st.integers(0, 1999), min_size=1, max_size=60))
def test_a_line_that_is_suspected_rightly_costs_three_tries(bad: set[int]) -> None:
    batch = Batch([None if line in bad else line for line in range(2000)])
    assert set(find_refused(2000, batch.attempt, lambda _: batch.cause)) == bad
    assert batch.n_tries <= 4 * len(bad) + 12


@given(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=80), st.data())
def test_a_suspicion_may_be_wrong(keys: list[int | None], data: st.DataObject) -> None:
    batch = Batch(keys)
    anything = st.one_of(st.none(), st.integers(-1, len(keys) + 1))
    assert find_refused(len(keys), batch.attempt, lambda _: data.draw(anything)) == batch.expected()


def test_no_line_needs_no_try() -> None:
    batch = Batch([])
    assert find_refused(0, batch.attempt) == {}
    assert batch.n_tries == 0


def test_lines_refused_together_but_accepted_in_parts_are_not_refused() -> None:
    sizes: list[int] = []

    def attempt(start: int, stop: int) -> str | None:
        sizes.append(stop - start)
        return "too many at once" if stop - start > 4 else None

    assert find_refused(10, attempt) == {}
    assert sizes[-1] <= 4
