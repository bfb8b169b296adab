"""A chunk's protocol without IO: any split reassembles, nothing else passes, and each break has its decision."""

from __future__ import annotations

from itertools import pairwise

import pytest
import xxhash
from hypothesis import assume, given
from hypothesis import strategies as st

from protheon_dask.broker.chunks import (
    FIRST_DELAY_S,
    MAX_DELAY_S,
    MAX_GAPS,
    ChunkAssembler,
    Resume,
    StartOver,
    Stop,
    Tries,
    WantedChunk,
    after_break,
)
from protheon_dask.errors import (
    BrokerUnavailable,
    ChecksumMismatch,
    ChunkGap,
    ChunkOutdated,
    ChunkUnavailable,
    InvariantError,
    LeadershipLost,
    LeaseLost,
    LedgerUnavailable,
    NotFound,
    ProtheonError,
)

AWAY = BrokerUnavailable("away")
WRONG = ChecksumMismatch("aa", "bb")
GAP = ChunkGap(1, 2)


def wanted(data: bytes) -> WantedChunk:
    return WantedChunk(7, 1, len(data), xxhash.xxh3_128(data).digest())


def cut(data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    """Messages of data, cut at these offsets; some are empty when offsets repeat."""
    offsets = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [(start, data[start:end]) for start, end in pairwise(offsets)]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_any_split_of_messages_reassembles(data: bytes, cuts: list[int]) -> None:
    assembler = ChunkAssembler(wanted(data))

    assert b"".join(assembler.feed(*message) for message in cut(data, cuts)) == data
    assembler.finish()


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=8), st.data())
def test_a_message_left_out_doubled_or_swapped_is_a_gap(data: bytes, cuts: list[int], draw: st.DataObject) -> None:
    messages = [message for message in cut(data, cuts) if message[1]]
    i = draw.draw(st.integers(0, len(messages) - 1))
    match draw.draw(st.sampled_from(["left out", "doubled", "swapped"])):
        case "left out":
            messages.pop(i)
        case "doubled":
            messages.insert(i, messages[i])
        case _:
            assume(i > 0)
            messages[i - 1], messages[i] = messages[i], messages[i - 1]
    assembler = ChunkAssembler(wanted(data))

    with pytest.raises(ChunkGap):  # noqa: PT012  # which message is the first wrong one is drawn
        for message in messages:
            assembler.feed(*message)
        assembler.finish()


@given(st.binary(min_size=1, max_size=200), st.integers(0), st.integers(0, 7))
def test_one_bit_flipped_is_a_checksum_mismatch(data: bytes, at: int, bit: int) -> None:
    broken = bytearray(data)
    broken[at % len(data)] ^= 1 << bit
    assembler = ChunkAssembler(wanted(data))
    assembler.feed(0, bytes(broken))

    with pytest.raises(ChecksumMismatch):
        assembler.finish()


def test_a_gap_takes_nothing_and_the_stream_goes_on_where_it_was() -> None:
    assembler = ChunkAssembler(wanted(b"abcdef"))
    assembler.feed(0, b"abc")
    for offset, data in ((4, b"ef"), (0, b"abc"), (3, b"defg")):
        with pytest.raises(ChunkGap):
            assembler.feed(offset, data)
    with pytest.raises(ChunkGap) as early_end:
        assembler.finish()

    assembler.feed(assembler.offset_bytes, b"def")
    assembler.finish()

    assert (early_end.value.expected_bytes, early_end.value.got_bytes) == (6, 3)


@pytest.mark.parametrize("error", [AWAY, ChunkUnavailable("cut again"), LedgerUnavailable("away"), LeadershipLost(3)], ids=repr)
def test_what_passes_is_waited_for_ever_more_slowly_until_the_deadline(error: ProtheonError) -> None:
    tries, delays = Tries(), []
    for _ in range(8):
        step = after_break(error, tries, 60.0)
        assert isinstance(step, Resume)
        delays.append(step.delay_s)
        tries = step.tries

    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, MAX_DELAY_S, MAX_DELAY_S, MAX_DELAY_S]
    assert after_break(error, tries.progressed(), 60.0) == Resume(FIRST_DELAY_S, Tries(fruitless=1))
    assert after_break(error, tries, MAX_DELAY_S) == Stop(error)


def test_wrong_bytes_are_fetched_once_more_and_no_more() -> None:
    first = after_break(WRONG, Tries(), 60.0)
    assert first == StartOver(Tries(mismatches=1))
    assert isinstance(first, StartOver)

    between = after_break(AWAY, first.tries, 60.0)
    assert isinstance(between, Resume)

    assert after_break(WRONG, between.tries.progressed(), 60.0) == Stop(WRONG)


def test_gaps_stop_when_they_repeat_without_a_byte_between() -> None:
    tries = Tries()
    for _ in range(MAX_GAPS - 1):
        step = after_break(GAP, tries, 60.0)
        assert isinstance(step, Resume)
        tries = step.tries

    assert after_break(GAP, tries, 60.0) == Stop(GAP)
    assert isinstance(after_break(GAP, tries.progressed(), 60.0), Resume)
    assert isinstance(after_break(AWAY, tries, 60.0), Resume)


@pytest.mark.parametrize("error", [ChunkOutdated("2"), NotFound("no"), LeaseLost(1, 2), InvariantError("bug")], ids=repr)
def test_what_asking_again_cannot_help_stops_at_once(error: ProtheonError) -> None:
    assert after_break(error, Tries(), 60.0) == Stop(error)
