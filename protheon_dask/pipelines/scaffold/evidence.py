"""What the sample shows of a column, in the few words of a comment."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_DOWN, Context
from typing import Final

from protheon_dask.pipelines.scaffold.names import literal, shown, snake
from protheon_dask.pipelines.scaffold.observe import INT8, Numbers, Seen, Texts
from protheon_dask.pipelines.scaffold.shape import Leaf, share

EXAMPLE_CHARACTERS: Final = 24
CHOICES_CHARACTERS: Final = 60
WHOLE_BELOW: Final = 10**EXAMPLE_CHARACTERS
"""Ints up to it are told as they stand."""
SIX_DIGITS: Final = Context(prec=6, rounding=ROUND_DOWN)
PRIVATE: Final = frozenset(
    {"auth", "authorization", "card", "cookie", "credential", "credentials", "email", "iban", "mail", "passwd", "password", "phone"}
) | frozenset({"secret", "session", "signature", "ssn", "token"})
"""Words in the names of values that are not to be copied into a source file."""
TIME_WORDS: Final = frozenset({"at", "created", "date", "end", "expires", "modified", "start", "time", "timestamp", "ts", "updated"})
YEARS: Final = (946_684_800, 2_524_608_000)
"""Seconds from 1970 to 2000 and to 2050: an int between them that is called like a time is taken for one."""


def evidence(leaf: Leaf, n_rows: int) -> str:
    """How many rows have it, and what it is there; n_rows: of the table."""
    seen = leaf.seen
    parts = [leaf.note] if leaf.note else []
    if seen.n_there < n_rows and seen.n_there:
        parts.insert(0, f"in {share(seen.n_there, n_rows)}")
    if leaf.is_list:
        parts.append(f"lists of up to {seen.longest_list:,}")
        assert seen.item is not None  # a list of something
        seen = seen.item
    if leaf.common is not None:
        n_odd, seen = seen.n_there - seen.only(leaf.common).n, seen.only(leaf.common)
        parts.append(f"{n_odd:,} of {leaf.seen.n_there:,} {'is' if n_odd == 1 else 'are'} of another kind, and refused")
    if not leaf.note:
        parts += _values(leaf.key, seen)
    return "; ".join(parts)


def _values(key: str, seen: Seen) -> list[str]:
    words = set(snake(key).split("_"))
    parts = []
    if seen.bools:
        parts.append(f"true in {share(seen.trues, seen.bools)}" if 0 < seen.trues < seen.bools else f"always {str(seen.trues > 0).lower()}")
    if seen.ints.n and not seen.floats.n:
        parts += _ints(seen.ints, words)
    elif seen.floats.n:
        both = [seen.floats] + ([seen.ints] if seen.ints.n else [])
        low, high = (_short(bound) for bound in (min(n.low for n in both), max(n.high for n in both)))
        parts.append(f"{low} .. {high}" if low != high else f"always {low}" if seen.floats.n + seen.ints.n > 1 else low)
    if seen.texts.n:
        parts.append(_texts(seen.texts, is_private=bool(words & PRIVATE)) + (", in quotes or not" if seen.ints.n or seen.floats.n else ""))
    if seen.texts.has_nul:
        parts.append("some with a NUL, which is replaced")
    return parts


def _ints(numbers: Numbers, words: set[str]) -> list[str]:
    low, high = int(numbers.low), int(numbers.high)
    first, last = (str(n) if n in INT8 else _short(n) for n in (low, high))
    parts = [f"always {first}" if low == high and numbers.n > 1 else f"{first} .. {last}" if low != high else first]
    for unit in (1, 1_000, 1_000_000):
        if words & TIME_WORDS and YEARS[0] * unit <= low and high <= YEARS[1] * unit:
            begin, end = (dt.datetime.fromtimestamp(n // unit, dt.UTC).date() for n in (low, high))
            name = {1: "seconds", 1_000: "milliseconds", 1_000_000: "microseconds"}[unit]
            parts.append(f"{name} since 1970? {begin} .. {end}")
    return parts


def _short(number: float | int) -> str:
    """A number in six digits; an int beyond bigint, which may be beyond a double, as it stands, unless it is long.

    A long one is cut, not rounded: as a bound it would be a number that no line has reached.
    """
    if not isinstance(number, int) or number in INT8:
        return f"{number:.6g}"
    return str(number) if abs(number) < WHOLE_BELOW else f"{SIX_DIGITS.create_decimal(number).normalize():e}"


def _texts(texts: Texts, *, is_private: bool) -> str:
    lengths = f"{texts.longest:,} characters" if texts.longest == texts.shortest else f"{texts.shortest:,} to {texts.longest:,} characters"
    if texts.kinds and texts.kinds <= {"zoned", "naive"}:
        zone = {1: "" if "zoned" in texts.kinds else ", no zone", 2: ", some with a zone and some without"}[len(texts.kinds)]
        return f"{shown(texts.low[1][:10])} .. {shown(texts.high[1][:10])}{zone}"
    if texts.kinds == {"uuid"}:
        return "uuids"
    if is_private:
        return lengths
    if texts.kinds and texts.kinds <= {"int", "decimal", "date"}:
        low, high = texts.low[1], texts.high[1]
        bounds = f"{low} .. {high}" if low != high else f"always {low}" if texts.n > 1 else low
        return bounds + ("" if texts.kinds == {"date"} else ", in quotes")
    if texts.choices is not None and len(texts.choices) == 1 and texts.n > 1:
        return f"always {_example(texts.example)}"
    if texts.choices is not None and texts.n >= 4 * len(texts.choices):
        often = sorted(texts.choices, key=lambda text: (-texts.choices[text], text))  # type: ignore[index]  # it is there
        named = ", ".join(_example(text) for text in often)
        return f"{len(often)} values: {named}" if len(named) <= CHOICES_CHARACTERS else f"{len(often)} values, such as {_example(often[0])}"
    return f"such as {_example(texts.example)}; {lengths}"


def _example(text: str) -> str:
    return literal(text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 2] + "..")
