"""What a sample of JSON lines holds: for each place in the lines, which kinds of values, how many, and within which bounds."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

import msgspec

from protheon_dask.pipelines.verdict import BLANK, DECODE_ERRORS, decode_reason

MAX_KEYS: Final = 1_000
"""Keys of one place that are told apart; an object with more has data for keys, as a map from words to numbers has."""
MAX_DEPTH: Final = 12
"""Levels that are looked into; deeper ones become jsonb in any case."""
MAX_CHOICES: Final = 16
"""Different texts that are kept: what a comment can name."""
INT8: Final = range(-(2**63), 2**63)
NUMERIC_EXPONENTS: Final = range(-16_383, 131_072)
"""Decimal exponents that PostgreSQL's numeric holds (manual, 8.1.2)."""
DOUBLE_DIGITS: Final = 17
"""Significant digits that tell any two doubles apart; a number with more was written by something more exact."""

ODD_SHARE: Final = 0.001
"""Of the values of one place: so few of another kind are odd ones, whose lines are refused, and no reason to give the type up."""

TextKind = Literal["plain", "int", "decimal", "uuid", "date", "zoned", "naive"]

ScalarKind = Literal["bool", "number", "text"]

_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,99})\.[0-9]{1,99}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Literally(str):
    """A number with a point or an exponent, as it stands in the line."""

    __slots__ = ()


_DECODE = msgspec.json.Decoder(float_hook=Literally).decode


@dataclass(slots=True)
class Numbers:
    """Ints, or numbers with a point or an exponent, of one place."""

    n: int = 0
    low: float | int = 0
    high: float | int = 0
    is_long: bool = False  # more digits than a double has
    is_huge: bool = False  # beyond numeric

    def add_int(self, value: int) -> None:
        self._bounds(value)

    def add_literal(self, text: str) -> None:
        value = float(text)
        if len(text) > DOUBLE_DIGITS or value in (float("inf"), float("-inf"), 0.0):
            self._look_at_digits(text, value)
        self._bounds(value)

    def _look_at_digits(self, text: str, value: float) -> None:
        try:
            exact = Decimal(text)
        except InvalidOperation:  # an exponent of 19 digits and more, which decimal has not either
            self.is_long = self.is_huge = True
            return
        beyond_double = value in (float("inf"), float("-inf")) or (value == 0.0 and exact != 0)
        self.is_long = self.is_long or beyond_double or len(exact.as_tuple().digits) > DOUBLE_DIGITS
        exponent = exact.as_tuple().exponent
        assert isinstance(exponent, int)  # JSON has no NaN
        self.is_huge = self.is_huge or exact.adjusted() not in NUMERIC_EXPONENTS or exponent not in NUMERIC_EXPONENTS

    def _bounds(self, value: float) -> None:
        if not self.n:
            self.low = self.high = value
        elif value < self.low:
            self.low = value
        elif value > self.high:
            self.high = value
        self.n += 1


@dataclass(slots=True)
class Texts:
    """Strings of one place."""

    n: int = 0
    kinds: set[TextKind] = field(default_factory=set)  # complete only as long as "plain" is not in it
    shortest: int = 0  # characters
    longest: int = 0
    low: tuple[float, str] = (0.0, "")  # by its number, where it is one, and its letters; as long as no text is plain
    high: tuple[float, str] = (0.0, "")
    choices: dict[str, int] | None = field(default_factory=dict)  # None: more than MAX_CHOICES
    example: str = ""
    has_nul: bool = False

    def add(self, text: str) -> None:
        size = len(text)
        if not self.n:
            self.shortest = self.longest = size
            self.example = text
            self.low = self.high = (float("-inf"), "")
        elif size < self.shortest:
            self.shortest = size
        elif size > self.longest:
            self.longest = size
        self.n += 1
        if "plain" not in self.kinds:
            kind = text_kind(text)
            self.kinds.add(kind)
            order = (float(text) if kind in ("int", "decimal") else 0.0, text)
            if self.n == 1 or order < self.low:
                self.low = order
            if order > self.high:
                self.high = order
        if self.choices is not None:
            self.choices[text] = self.choices.get(text, 0) + 1
            if len(self.choices) > MAX_CHOICES:
                self.choices = None
        if not self.has_nul and "\0" in text:
            self.has_nul = True


def text_kind(text: str) -> TextKind:
    """What a text may be read as, by the rules of msgspec, which will read it: at most one thing."""
    size = len(text)
    if size < 8 or not text[0].isascii():
        return "int" if _INT.fullmatch(text) else "decimal" if _DECIMAL.fullmatch(text) else "plain"
    if size >= 19 and text[4] == "-" and text[10] in "Tt ":
        try:
            return "naive" if msgspec.convert(text, dt.datetime).tzinfo is None else "zoned"
        except msgspec.ValidationError:
            return "plain"
    if size == 36 and _UUID.fullmatch(text):
        return "uuid"
    if size == 10 and _DATE.fullmatch(text):
        try:
            msgspec.convert(text, dt.date)
        except msgspec.ValidationError:
            return "plain"
        return "date"
    if _INT.fullmatch(text):
        return "int" if int(text) in INT8 else "decimal"
    return "decimal" if _DECIMAL.fullmatch(text) else "plain"


class Seen:
    """Everything seen at one place of the lines.

    distinct:   the values, as long as each was another one; None: a value came again, or the place is within a list.
    """

    __slots__ = (
        *("bools", "distinct", "fields", "floats", "has_nul_below", "has_too_many_keys", "ints", "item"),
        *("lists", "longest_list", "n", "nulls", "objects", "texts", "trues"),
    )

    def __init__(self, *, is_single: bool = False) -> None:
        self.n = 0  # values, nulls included
        self.nulls = self.bools = self.trues = self.lists = self.objects = 0
        self.longest_list = 0
        self.ints, self.floats, self.texts = Numbers(), Numbers(), Texts()
        self.item: Seen | None = None  # what the lists hold
        self.fields: dict[str, Seen] = {}  # by key, in the order of their first appearance
        self.has_too_many_keys = False
        self.has_nul_below = False  # \u0000 deeper than MAX_DEPTH
        self.distinct: set[Any] | None = set() if is_single else None

    @property
    def n_there(self) -> int:
        """Values that are not null."""
        return self.n - self.nulls

    def add(self, value: Any, depth: int = 0) -> None:
        self.n += 1
        kind = type(value)
        if kind is str:
            self.texts.add(value)
            self._distinguish(value)
        elif kind is int:
            self.ints.add_int(value)
            self._distinguish(value)
        elif value is None:
            self.nulls += 1
        elif kind is bool:
            self.bools += 1
            self.trues += value
        elif kind is Literally:
            self.floats.add_literal(value)
        elif kind is dict:
            self._add_object(value, depth)
        else:
            self._add_list(value, depth)

    def _distinguish(self, value: Any) -> None:
        if self.distinct is not None:
            if value in self.distinct:
                self.distinct = None
            else:
                self.distinct.add(value)

    def _add_object(self, value: dict[str, Any], depth: int) -> None:
        self.objects += 1
        if depth >= MAX_DEPTH:
            self._look_for_nul(value)
            return
        fields = self.fields
        for key, item in value.items():
            seen = fields.get(key)
            if seen is None:
                if len(fields) >= MAX_KEYS:
                    self.has_too_many_keys = True
                    self._look_for_nul(item)
                    continue
                seen = fields[key] = Seen(is_single=self.distinct is not None)
            seen.add(item, depth + 1)

    def _add_list(self, value: list[Any], depth: int) -> None:
        self.lists += 1
        self.longest_list = max(self.longest_list, len(value))
        if depth >= MAX_DEPTH:
            self._look_for_nul(value)
            return
        if self.item is None:
            self.item = Seen()
        for item in value:
            self.item.add(item, depth + 1)

    def _look_for_nul(self, value: Any) -> None:
        try:
            self.has_nul_below = self.has_nul_below or b"\\u0000" in msgspec.json.encode(value)
        except RecursionError:  # a depth that could just be read: json takes it in any case
            self.has_nul_below = True

    @property
    def common_kind(self) -> ScalarKind | None:
        """The kind that all but a few odd values have, whatever those are; None: there are no odd ones, or too many."""
        kinds: dict[ScalarKind, int] = {"bool": self.bools, "number": self.ints.n + self.floats.n, "text": self.texts.n}
        kind = max(kinds, key=kinds.__getitem__)
        return kind if 0 < self.n_there - kinds[kind] <= ODD_SHARE * self.n_there else None

    def only(self, kind: ScalarKind) -> Seen:
        """The values of this kind alone."""
        made = Seen()
        if kind == "bool":
            made.n, made.bools, made.trues = self.bools, self.bools, self.trues
        elif kind == "number":
            made.n, made.ints, made.floats = self.ints.n + self.floats.n, self.ints, self.floats
        else:
            made.n, made.texts = self.texts.n, self.texts
        return made

    def needs_json(self) -> bool:
        """Whether something below, or here, can stand in a column of type json and not in one of type jsonb."""
        if self.texts.has_nul or self.has_nul_below or self.floats.is_huge:
            return True
        if any("\0" in key for key in self.fields):
            return True
        return (self.item is not None and self.item.needs_json()) or any(seen.needs_json() for seen in self.fields.values())


@dataclass(slots=True)
class Sample:
    """A sample as it was observed.

    n_lines:    different lines that are objects: the base of every share.
    n_twice:    lines left out because they equal one before, byte for byte.
    n_refused:  lines that no pipeline could decode; first_reason says why the first one.
    n_others:   lines that are JSON and no objects; other_kinds names what they are.
    is_whole:   the sample is all there is: nothing beyond it can differ.
    """

    root: Seen
    lines: list[bytes] = field(default_factory=list)  # those of n_lines
    n_twice: int = 0
    n_refused: int = 0
    first_refused: bytes = b""
    first_reason: str = ""
    n_others: int = 0
    other_kinds: dict[str, int] = field(default_factory=dict)
    is_whole: bool = False

    @property
    def n_lines(self) -> int:
        return len(self.lines)


def observe(lines: Iterable[bytes], *, is_whole: bool) -> Sample:
    """Look at every value of the lines.

    Shapes:     lines as a pipeline gets them.
    Guarantee:  raises nothing because of a line's bytes.
    """
    sample = Sample(Seen(is_single=True), is_whole=is_whole)
    known: set[bytes] = set()
    for line in lines:
        if not line.strip(BLANK):
            continue
        if line in known:
            sample.n_twice += 1
            continue
        try:
            value = _DECODE(line)
        except DECODE_ERRORS as error:
            sample.n_refused += 1
            if not sample.first_reason:
                sample.first_refused, sample.first_reason = line, decode_reason(error, line)
            continue
        if type(value) is not dict:
            sample.n_others += 1
            kind = {list: "arrays", str: "strings", bool: "true and false", type(None): "nulls"}.get(type(value), "numbers")
            sample.other_kinds[kind] = sample.other_kinds.get(kind, 0) + 1
            continue
        known.add(line)
        sample.lines.append(line)
        sample.root.add(value)
    return sample


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """What a key would be for the sample's lines: with a value for each part, and how many different ones."""

    n_lines: int
    n_with: int
    n_different: int


def uniqueness(sample: Sample, paths: Iterable[tuple[str, ...]]) -> Uniqueness:
    """Count how often the values at these paths, taken together, are there and differ."""
    wanted = list(paths)
    n_with, different = 0, set()
    for line in sample.lines:
        value = _DECODE(line)
        parts = tuple(_at(value, path) for path in wanted)
        if all(part is not None for part in parts):
            n_with += 1
            different.add(parts)
    return Uniqueness(sample.n_lines, n_with, len(different))


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return tuple(value) if isinstance(value, list) else value
