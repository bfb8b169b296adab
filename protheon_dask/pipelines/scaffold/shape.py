"""Decide what becomes of each place in the lines: a column of some type, columns of its own, a table of its own, or jsonb."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from protheon_dask.pipelines.scaffold.keys import MAX_OBJECTS, Path
from protheon_dask.pipelines.scaffold.names import can_be_field
from protheon_dask.pipelines.scaffold.observe import INT8, Sample, ScalarKind, Seen

FEW: Final = 20
"""Values from which a rule is believed (present in all, all of them numbers) where the sample is not all there is."""
SPARSE: Final = 0.1
"""Share of the rows below which an object's fields get no columns of their own."""
MAX_COLUMNS: Final = 200
"""Columns of a table before objects stay jsonb; a row of PostgreSQL has at most 1,600 and must fit into 8 KiB."""
MAX_LEFT: Final = 400
"""Columns beyond which the rarest keys are left out: then there is no object left that could stay jsonb."""
MAX_LISTS: Final = 3
"""Lists within lists that become tables."""
MAX_TABLES: Final = 12
MAP_KEYS: Final = 20
"""Keys from which an object of equal values, each seldom there, is taken for a map."""
MAP_SHARE: Final = 0.25
DOUBLE_EXACT: Final = 2**53

Type = Literal["int", "float", "str", "bool", "Decimal", "UUID", "dt.datetime", "Timestamp", "dt.date", "Raw", "Json"]

_DATA_KEY = re.compile(
    r"""-?[0-9]+(?:[.,:/_-][0-9]+)*              # numbers, dates, addresses, ranges
      | [0-9]{4}-[0-9]{2}-[0-9]{2}[T\ ].*        # times
      | (?=.*[0-9])[0-9a-fA-F-]{8,}              # uuids, hashes
      | .*(?:://|@.+\.|\ .*\ ).*                 # URLs, mail addresses, sentences""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Leaf:
    """A column. is_list: of a list of the type. note: what its comment begins with, where the type is a way out.

    common: the kind of its values, where lines have a few odd ones, and are refused for them.
    """

    key: str
    seen: Seen
    type: Type
    is_optional: bool
    is_list: bool = False
    has_null_items: bool = False
    note: str = ""
    common: ScalarKind | None = None


@dataclass(slots=True)
class Flat:
    """An object whose fields are columns of the same table."""

    key: str
    seen: Seen
    is_optional: bool
    nodes: list[Node]


@dataclass(slots=True)
class Many:
    """A list of objects: a table."""

    key: str
    seen: Seen
    is_optional: bool
    has_null_items: bool
    nodes: list[Node]


@dataclass(slots=True)
class LeftOut:
    """A key that no column has."""

    key: str
    why: str


Node = Leaf | Flat | Many | LeftOut


@dataclass(slots=True)
class Decider:
    """Decides for one sample. keyed: lists may become tables, since their rows can name the row that they belong to."""

    sample: Sample
    key_paths: tuple[Path, ...]
    n_tables: int = 1
    key_prefixes: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.key_prefixes = {path[:length] for path in self.key_paths for length in range(1, len(path) + 1)}

    def nodes(self) -> list[Node]:
        """What becomes of the lines' keys, in their order."""
        root = self.sample.root
        nodes = self._fields(root, root.objects, is_optional=False, depth=0, lists=0, path=())
        self._fit(nodes)
        return nodes

    def _fields(self, seen: Seen, n_rows: int, *, is_optional: bool, depth: int, lists: int, path: Path | None) -> list[Node]:
        return [
            self._node(key, below, seen.objects, n_rows, is_optional, depth, lists, None if path is None else (*path, key))
            for key, below in seen.fields.items()
        ]

    def _node(
        self, key: str, seen: Seen, n_objects: int, n_rows: int, is_optional: bool, depth: int, lists: int, path: Path | None
    ) -> Node:
        if not can_be_field(key):
            return LeftOut(key, "msgspec takes no key with a quote, a backslash or a control character")
        is_of_key = path is not None and path in self.key_prefixes
        is_optional = not is_of_key and (is_optional or seen.n_there < n_objects or not self._is_sure(seen.n_there))
        if seen.n_there and seen.objects == seen.n_there:
            return self._object(key, seen, n_rows, is_optional, depth, lists, path, is_of_key)
        if seen.n_there and seen.lists == seen.n_there:
            return self._list(key, seen, is_optional, lists)
        type_, note = self._scalar(seen)
        if path is not None and (common := seen.common_kind) is not None:  # within lists odd ones may be in many more of the lines
            common_type, no_way_out = self._scalar(seen.only(common))
            if note and not no_way_out:
                return Leaf(key, seen, common_type, is_optional, common=common)
        return Leaf(key, seen, type_, is_optional, note=note)

    def _is_sure(self, n: int) -> bool:
        return self.sample.is_whole or n >= FEW

    def _object(
        self, key: str, seen: Seen, n_rows: int, is_optional: bool, depth: int, lists: int, path: Path | None, is_of_key: bool
    ) -> Node:
        if not is_of_key:
            why = ""
            if not seen.fields:
                why = "always an empty object"
            elif is_map(seen):
                why = f"a map: {len(seen.fields):,}{' or more' if seen.has_too_many_keys else ''} keys that look like data"
            elif seen.objects < SPARSE * n_rows and seen.objects < n_rows:
                why = "an object that few rows have"
            elif depth >= MAX_OBJECTS:
                why = "an object deep within others"
            if why:
                return self._jsonb(key, seen, is_optional, why)
        nodes = self._fields(seen, n_rows, is_optional=is_optional, depth=depth + 1, lists=lists, path=path)
        if all(isinstance(node, LeftOut) for node in nodes):
            return self._jsonb(key, seen, is_optional, "an object whose keys no field can have")
        return Flat(key, seen, is_optional, nodes)

    def _list(self, key: str, seen: Seen, is_optional: bool, lists: int) -> Node:
        item = seen.item
        if item is None or not item.n_there:
            return self._jsonb(key, seen, is_optional, "always an empty list" if item is None or not item.n else "a list of nulls")
        if item.objects == item.n_there:
            why = ""
            if not self.key_paths:
                why = "a list of objects: a table for them needs the key of their line"
            elif not item.fields:
                why = "a list of empty objects"
            elif is_map(item):
                why = "a list of maps"
            elif lists >= MAX_LISTS:
                why = "a list deep within others"
            elif self.n_tables >= MAX_TABLES:
                why = f"a list of objects, and there are {MAX_TABLES} tables already"
            if why:
                return self._jsonb(key, seen, is_optional, why)
            self.n_tables += 1
            nodes = self._fields(item, item.objects, is_optional=False, depth=0, lists=lists + 1, path=None)
            if all(isinstance(node, LeftOut) for node in nodes):
                self.n_tables -= 1
                return self._jsonb(key, seen, is_optional, "a list of objects whose keys no field can have")
            self._fit(nodes)
            return Many(key, seen, is_optional, item.nulls > 0, nodes)
        type_, note = self._scalar(item)
        if note or type_ not in ("int", "float", "str", "bool") or item.texts.has_nul:
            return self._jsonb(key, seen, is_optional, "a list of values of several kinds" if note else "a list")
        return Leaf(key, seen, type_, is_optional, is_list=True, has_null_items=item.nulls > 0)

    def _scalar(self, seen: Seen) -> tuple[Type, str]:
        """The type that takes each of the values, and a word on it where that is jsonb."""
        if not seen.n_there:
            return "Raw", "always null"
        kinds = {"bool": seen.bools, "int": seen.ints.n, "float": seen.floats.n, "text": seen.texts.n}
        kinds |= {"list": seen.lists, "object": seen.objects}
        there = {kind for kind, n in kinds.items() if n}
        readable = seen.texts.kinds if not seen.texts.n or self._is_sure(seen.texts.n) else {"plain"}
        if there == {"bool"}:
            return "bool", ""
        if there == {"text"}:
            return _text(set(readable)), ""
        if there <= {"int", "float", "text"} and readable <= {"int", "decimal"}:
            type_ = self._number(seen)
            if type_ is not None:
                return type_, ""
        shares = [f"{share(n, seen.n_there)} {name}" for name, n in kinds.items() if n]
        return ("Json" if seen.needs_json() else "Raw"), f"several kinds: {', '.join(shares)}" if len(there) > 1 else "too large numbers"

    def _number(self, seen: Seen) -> Type | None:
        """Ints where all are, doubles where they tell all apart, else numeric; None: not even that."""
        if seen.floats.is_huge:
            return None
        ints_fit = not seen.ints.n or (int(seen.ints.low) in INT8 and int(seen.ints.high) in INT8)
        if not seen.floats.n and "decimal" not in seen.texts.kinds:
            return "int" if ints_fit else "Decimal"
        largest = max(abs(seen.ints.low), abs(seen.ints.high))
        if seen.floats.is_long or seen.texts.n or largest > DOUBLE_EXACT:
            return "Decimal"
        return "float"

    def _jsonb(self, key: str, seen: Seen, is_optional: bool, why: str) -> Leaf:
        return Leaf(key, seen, "Json" if seen.needs_json() else "Raw", is_optional, note=why)

    def _fit(self, nodes: list[Node]) -> None:
        """Keep a table to MAX_COLUMNS: objects with the most columns for the rows that have them stay jsonb, then the rarest go."""
        while n_columns(nodes) > MAX_COLUMNS:
            flats = [(holder, place, flat) for holder, place, flat in _flats(nodes) if not self._holds_key(flat)]
            if not flats:
                break
            holder, place, flat = max(flats, key=lambda found: n_columns(found[2].nodes) / max(1, found[2].seen.objects))
            self.n_tables -= sum(1 for node in _below(flat.nodes) if isinstance(node, Many))
            holder[place] = self._jsonb(flat.key, flat.seen, flat.is_optional, "an object of many keys")
        if (excess := n_columns(nodes) - MAX_LEFT) > 0:
            leaves = [(node.seen.n_there, place) for place, node in enumerate(nodes) if isinstance(node, Leaf)]
            rare = sorted(leaves, key=lambda leaf: (leaf[0], -leaf[1]))[:excess]
            for n, place in rare:
                node = nodes[place]
                assert isinstance(node, Leaf)
                if not self._is_key_leaf(node):
                    nodes[place] = LeftOut(node.key, f"in {n:,} rows only, and there are {MAX_LEFT} columns already")

    def _holds_key(self, flat: Flat) -> bool:
        return any(isinstance(node, Leaf) and self._is_key_leaf(node) for node in _below(flat.nodes))

    def _is_key_leaf(self, leaf: Leaf) -> bool:
        root = self.sample.root
        return any(leaf.seen is _at(root, path) for path in self.key_paths)


def _text(kinds: set[str]) -> Type:
    if kinds <= {"int", "decimal"}:
        return "int" if kinds == {"int"} else "Decimal"
    one: dict[str, Type] = {"uuid": "UUID", "date": "dt.date", "zoned": "dt.datetime", "naive": "Timestamp"}
    return one.get(kinds.pop(), "str") if len(kinds) == 1 else "str"


def is_map(seen: Seen) -> bool:
    """Whether an object's keys are data: they look like it, or there are very many, or many of equal kind and each seldom there."""
    n_keys = len(seen.fields)
    if seen.has_too_many_keys or n_keys > MAX_COLUMNS:
        return True
    if sum(_DATA_KEY.fullmatch(key) is not None for key in seen.fields) >= max(1, 0.8 * n_keys):
        return True
    mean_share = sum(below.n for below in seen.fields.values()) / max(1, n_keys * seen.objects)
    kinds = [_kinds(below) for below in seen.fields.values()]
    return n_keys >= MAP_KEYS and mean_share < MAP_SHARE and kinds.count(kinds[0]) >= 0.9 * n_keys


def _kinds(seen: Seen) -> frozenset[str]:
    counts = {"bool": seen.bools, "number": seen.ints.n + seen.floats.n, "text": seen.texts.n, "list": seen.lists, "object": seen.objects}
    return frozenset(kind for kind, n in counts.items() if n)


def n_columns(nodes: list[Node]) -> int:
    """Columns of one table, those of flat objects included."""
    return sum(n_columns(node.nodes) if isinstance(node, Flat) else isinstance(node, Leaf) for node in nodes)


def share(n: int, of: int) -> str:
    """A share in words; never 100 % or 0 % unless that is exact."""
    if n == of:
        return "100 %"
    percent = 100 * n / of
    if 1 <= percent <= 99:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if 0.1 <= percent <= 99.9 else f"{n:,} of {of:,}"


def _flats(nodes: list[Node]) -> Iterator[tuple[list[Node], int, Flat]]:
    for place, node in enumerate(nodes):
        if isinstance(node, Flat):
            yield nodes, place, node
            yield from _flats(node.nodes)


def _below(nodes: list[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Flat | Many):
            yield from _below(node.nodes)


def _at(root: Seen, path: Path) -> Seen | None:
    seen: Seen | None = root
    for key in path:
        seen = None if seen is None else seen.fields.get(key)
    return seen
