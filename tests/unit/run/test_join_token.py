"""The token that a host joins by: whole or refused, and never shown by accident."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.errors import ConfigError
from protheon_dask.run.trust.join_token import PREFIX, JoinToken, split_address

TOKEN = JoinToken(("192.168.1.10:50052", "[fd00::1]:50052", "nuc.lan:1"), bytes(range(32)), b"invite-1", b"0123456789abcdef")


def test_a_token_comes_back_as_it_was() -> None:
    assert JoinToken.parse(TOKEN.text()) == TOKEN
    assert JoinToken.parse(f"  {TOKEN.text()}\n") == TOKEN


def test_a_token_is_one_word_that_every_shell_leaves_alone() -> None:
    assert TOKEN.text().startswith(PREFIX)
    assert set(TOKEN.text()) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_tokens_repr_shows_no_secret() -> None:
    assert "0123456789abcdef" not in repr(TOKEN)
    assert TOKEN.secret.hex() not in repr(TOKEN)


@given(st.integers(min_value=1, max_value=len(TOKEN.text()) - len(PREFIX) - 1))
def test_a_token_that_was_cut_off_is_not_whole(n: int) -> None:
    with pytest.raises(ConfigError, match="not whole"):
        JoinToken.parse(TOKEN.text()[:-n])


@given(st.integers(min_value=len(PREFIX), max_value=len(TOKEN.text()) - 1), st.sampled_from("ABCabc019-_"))
def test_one_changed_character_is_noticed(at: int, other: str) -> None:
    text = TOKEN.text()
    changed = text[:at] + other + text[at + 1 :]
    with suppress(ConfigError):
        assert JoinToken.parse(changed) == TOKEN  # the same character, or bits of the last one that mean nothing


@given(st.text(max_size=300))
def test_any_text_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(ConfigError):
        JoinToken.parse(text)
    with pytest.raises(ConfigError):
        JoinToken.parse(PREFIX + text)


def test_an_endless_token_is_not_read() -> None:
    with pytest.raises(ConfigError, match="too long"):
        JoinToken.parse(PREFIX + "A" * 5000)


@pytest.mark.parametrize(
    ("address", "place"), [("nuc:1", ("nuc", 1)), ("[::1]:65535", ("::1", 65535)), ("192.168.1.1:50052", ("192.168.1.1", 50052))]
)
def test_an_address_is_host_and_port(address: str, place: tuple[str, int]) -> None:
    assert split_address(address) == place


@pytest.mark.parametrize(
    "address", ["", "nuc", ":1", "nuc:", "nuc:0", "nuc:65536", "::1:5", "a b:1", "a,b:1", "x@y:1", "[nuc]:1", "n:²", "n:-1"]
)
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        split_address(address)
