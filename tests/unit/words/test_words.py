"""Foreign text for people: nothing in it moves a cursor, turns the line around or breaks the page's encoding."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.words import visible


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain, é, 日本, עברית", "plain, é, 日本, עברית"),
        ("two\nlines\r\n\tand a tab", r"two\nlines\r\n\tand a tab"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("broken\udc80name", r"broken\udc80name"),
        ("line\u2028separator", r"line\u2028separator"),
    ],
)
def test_what_is_not_seen_is_shown_as_an_escape(given_text: str, shown: str) -> None:
    assert visible(given_text) == shown


def test_of_a_long_text_the_middle_is_left_out() -> None:
    assert visible("/data/" + "x" * 300 + "/end.zst", 21) == "/data/xxxx…xx/end.zst"
    assert visible("exactly", 7) == "exactly"


@given(st.text(st.characters(), max_size=80), st.integers(1, 40))
def test_it_can_always_be_encoded_and_holds_no_control_character(text: str, most: int) -> None:
    shown = visible(text, most)
    assert shown.encode().decode() == shown
    assert not {character for character in shown if unicodedata.category(character) in ("Cc", "Cs")}
