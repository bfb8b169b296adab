"""Policy: what an ending costs, whose fault an SQLSTATE is, and when rejects are too many; as tables and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.config import parse_reject_limit
from protheon_dask.model import Cost
from protheon_dask.policy import Blame, GiveUp, RejectLimit, Retry, RetryPolicy, auto_chunk_lines, blame, dispatch_window

POLICY = RetryPolicy({Cost.FAILURE: 5, Cost.CRASH: 3, Cost.LOSS: 20}, base_s=2.0, cap_s=900.0, jitter=0.1)
UNITS = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("cost", "cap"), [(Cost.FAILURE, 5), (Cost.CRASH, 3), (Cost.LOSS, 20)])
def test_a_task_is_dead_exactly_at_its_cap(cost: Cost, cap: int) -> None:
    assert isinstance(POLICY.decide(cost, cap - 1, 0.5), Retry)
    assert isinstance(POLICY.decide(cost, cap, 0.5), GiveUp)
    assert isinstance(POLICY.decide(cost, cap + 1, 0.5), GiveUp)


@pytest.mark.parametrize(("cap", "told"), [(1, "failed once"), (2, "failed 2 times")])
def test_a_letter_says_how_often_as_people_do(cap: int, told: str) -> None:
    assert POLICY.dead_at(Cost.FAILURE, cap).decide(Cost.FAILURE, cap, 0.5) == GiveUp(told)


@given(n=st.integers(1, 10_000), u=UNITS)
def test_what_costs_nothing_never_kills_and_never_waits(n: int, u: float) -> None:
    assert POLICY.decide(Cost.NOTHING, n, u) == Retry(0.0)


@given(cost=st.sampled_from([Cost.CRASH, Cost.LOSS]), n=st.integers(1, 2), u=UNITS)
def test_crashes_and_losses_do_not_wait(cost: Cost, n: int, u: float) -> None:
    assert POLICY.decide(cost, n, u) == Retry(0.0)


def test_the_pause_after_a_failure_doubles() -> None:
    delays = [POLICY.decide(Cost.FAILURE, n, 0.5) for n in (1, 2, 3, 4)]
    assert delays == [Retry(2.0), Retry(4.0), Retry(8.0), Retry(16.0)]


@given(n=st.integers(1, 2_000), u=UNITS)
def test_the_pause_stays_within_its_cap_and_its_jitter(n: int, u: float) -> None:
    patient = RetryPolicy({Cost.FAILURE: 10_000}, base_s=2.0, cap_s=900.0, jitter=0.1)
    decision = patient.decide(Cost.FAILURE, n, u)
    assert isinstance(decision, Retry)
    middle_s = min(900.0, 2.0 * 2.0 ** min(n - 1, 30))
    assert 0.9 * middle_s <= decision.delay_s <= 1.1 * middle_s


@given(u=UNITS, v=UNITS)
def test_pauses_of_two_tasks_are_spread_by_the_callers_number(u: float, v: float) -> None:
    first, second = POLICY.decide(Cost.FAILURE, 3, u), POLICY.decide(Cost.FAILURE, 3, v)
    assert isinstance(first, Retry)
    assert isinstance(second, Retry)
    assert (u < v) <= (first.delay_s <= second.delay_s)


@pytest.mark.parametrize(
    ("sqlstate", "whose"),
    [
        ("22P02", Blame(line=True)),
        ("23505", Blame(line=True)),
        ("54000", Blame(line=True)),
        ("54001", Blame(line=True)),
        ("P0001", Blame(line=True)),
        ("54011", Blame()),  # too many columns: no line's fault
        ("P0002", Blame()),
        (None, Blame(nobody=True)),
        ("40001", Blame(nobody=True)),
        ("40P01", Blame(nobody=True)),
        ("53100", Blame(nobody=True)),
        ("55P03", Blame(nobody=True)),
        ("57P01", Blame(nobody=True)),
        ("57014", Blame(nobody=True)),
        ("58030", Blame(nobody=True)),
        ("08006", Blame(nobody=True)),
        ("55006", Blame()),
        ("28P01", Blame(operator=True)),
        ("3D000", Blame(operator=True)),
        ("42P01", Blame(operator=True)),
        ("42501", Blame(operator=True)),
        ("0A000", Blame(operator=True)),
        ("XX000", Blame()),
        ("25P02", Blame()),
    ],
)
def test_whose_fault_an_sqlstate_is(sqlstate: str | None, whose: Blame) -> None:
    assert blame(sqlstate) == whose


@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5))
def test_at_most_one_is_to_blame(sqlstate: str) -> None:
    whose = blame(sqlstate)
    assert whose.line + whose.nobody + whose.operator <= 1


@pytest.mark.parametrize(
    ("limit", "rejected", "total", "at_end", "crossed"),
    [
        (RejectLimit(lines=10), 10, 10, False, False),
        (RejectLimit(lines=10), 11, 11, False, True),
        (RejectLimit(lines=0), 1, 1_000_000, False, True),
        (RejectLimit(fraction=0.5), 9_999, 9_999, False, False),
        (RejectLimit(fraction=0.5), 9_999, 9_999, True, True),
        (RejectLimit(fraction=0.5), 5_000, 10_000, False, False),
        (RejectLimit(fraction=0.5), 5_001, 10_000, False, True),
        (RejectLimit(fraction=0.0), 1, 10_000, False, True),
        (RejectLimit(fraction=1.0), 10_000, 10_000, True, False),
        (RejectLimit(fraction=0.5), 0, 0, True, False),
        (RejectLimit(), 10, 10, True, False),
    ],
)
def test_where_a_reject_limit_is_crossed(limit: RejectLimit, rejected: int, total: int, at_end: bool, crossed: bool) -> None:
    assert limit.is_crossed(rejected, total, at_end=at_end) is crossed


@pytest.mark.parametrize("text", ["50%", "0.5%", "1 line", "1000 lines"])
def test_a_reject_limit_is_told_as_it_is_typed(text: str) -> None:
    assert str(parse_reject_limit(text.split()[0])) == text


@given(fraction=st.floats(0, 1), total=st.integers(10_000, 10**9), more=st.integers(0, 10**6), data=st.data())
def test_more_rejects_never_uncross_a_limit(fraction: float, total: int, more: int, data: st.DataObject) -> None:
    rejected = data.draw(st.integers(0, total))
    limit = RejectLimit(fraction=fraction)
    if limit.is_crossed(rejected, total):
        assert limit.is_crossed(min(total, rejected + more), total)


@given(
    fraction=st.floats(0, 1),
    before=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    chunk=st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)),
)
def test_a_chunk_within_the_fraction_cannot_cross_a_limit_that_stood(
    fraction: float, before: tuple[int, int], chunk: tuple[int, int]
) -> None:
    """What lets a worker ask the ledger only for chunks with many rejects."""
    (rejected, total), (own, lines) = sorted(before), sorted(chunk)
    limit = RejectLimit(fraction=fraction, min_lines=0)
    if not limit.is_crossed(rejected, total) and own < fraction * lines:
        assert not limit.is_crossed(rejected + own, total + lines)


@given(lines=st.integers(0, 10**12), threads=st.integers(0, 10_000))
def test_chunks_are_neither_tiny_nor_huge(lines: int, threads: int) -> None:
    assert 1_000 <= auto_chunk_lines(lines, threads) <= 50_000


def test_each_thread_gets_about_eight_chunks() -> None:
    assert auto_chunk_lines(1_600_000, 8) == 25_000
    assert auto_chunk_lines(10_000_000, 2) == 50_000
    assert auto_chunk_lines(5, 2) == 1_000


def test_the_window_holds_three_tasks_a_thread_and_never_none() -> None:
    assert [dispatch_window(n) for n in (0, 1, 2, 100)] == [3, 3, 6, 300]
