"""Which value, or values, tell one line from all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.scaffold.names import can_be_field, shown, snake
from protheon_dask.pipelines.scaffold.observe import INT8, Sample, Seen, uniqueness

Path = tuple[str, ...]

MAX_OBJECTS: Final = 4
"""Objects within objects in which a key is looked for, and whose fields become columns."""
MAX_KEY_CHARACTERS: Final = 200
"""A longer text is no key: a B-tree's entry has at most 2,704 bytes (PostgreSQL, nbtree)."""
KEY_WORDS: Final = frozenset({"id", "uuid", "guid", "key", "pk"})


@dataclass(frozen=True, slots=True)
class Key:
    """The columns that key a line's row.

    paths:      where the parts stand; empty: no key was found.
    evidence:   what is known of it, in words; without a key: why what looks like one was not taken.
    is_unique:  no two lines of the sample have the same.
    others:     what is unique as well, as a person writes it after --key.
    """

    paths: tuple[Path, ...]
    evidence: str
    is_unique: bool
    others: tuple[str, ...] = ()


def guess_key(sample: Sample) -> Key:
    """The value that is called like a key, is in every line, and is another one in each.

    A value that is unique and not called like a key is named and not taken: rows with an equal key are left out of the
    table, so that a wrong guess would lose lines.
    """
    found = [path for path, seen in single_values(sample.root) if _can_be_key(seen, sample.n_lines)]
    named = [path for path in found if snake(path[-1]).rpartition("_")[2] in KEY_WORDS]
    named.sort(key=lambda path: (len(path), snake(path[-1]) not in KEY_WORDS))
    others = tuple(written(path) for path in found if path not in named[:1])
    if not named:
        return Key((), _why_not(sample), False, others)
    return Key((named[0],), _evidence(written(named[0]), sample.n_lines, sample.n_lines), True, others)


def given_key(sample: Sample, names: Sequence[str]) -> Key:
    """The key that a person named, by JSON keys with points between them or by the name of its column.

    Raises:     ConfigError: there is no such value, it is no scalar, or lines lack it.
    """
    places = dict(single_values(sample.root))
    by_name = {written(path): path for path in places} | {snake("_".join(map(snake, path))): path for path in reversed(places)}
    by_name |= {written(path): path for path in places}
    paths: list[Path] = []
    for name in names:
        if name not in by_name:
            there = [shown(written(path)) for path, seen in places.items() if seen.n_there == sample.n_lines]
            raise ConfigError(f"--key {name}: the lines have no such value; in every line there are: {', '.join(there[:20]) or 'none'}")
        path, seen = by_name[name], places[by_name[name]]
        if seen.n_there < sample.n_lines:
            lacking = sample.n_lines - seen.n_there
            raise ConfigError(f"--key {name}: {lacking:,} of {sample.n_lines:,} lines lack it or have null; a key is in every line")
        if seen.objects or seen.lists or seen.floats.n or seen.texts.has_nul or (seen.ints.n and seen.texts.n and not seen.common_kind):
            raise ConfigError(f"--key {name}: a key is an int or a text in every line; this one is not")
        if path not in paths:
            paths.append(path)
    counted = uniqueness(sample, paths)
    title = ", ".join(written(path) for path in paths)
    is_unique = counted.n_different == counted.n_lines
    return Key(tuple(paths), _evidence(title, counted.n_different, counted.n_lines), is_unique)


def single_values(root: Seen) -> Iterator[tuple[Path, Seen]]:
    """The places of scalars that are not within a list, nor in an object that a line may lack, in the order of the lines."""

    def walk(seen: Seen, path: Path) -> Iterator[tuple[Path, Seen]]:
        for key, below in seen.fields.items():
            if not can_be_field(key):
                continue
            here = (*path, key)
            if below.objects and below.objects == root.objects and len(here) <= MAX_OBJECTS:
                yield from walk(below, here)
            elif below.ints.n + below.texts.n + below.bools + below.floats.n:
                yield here, below

    yield from walk(root, ())


def written(path: Path) -> str:
    """A path as a person writes it."""
    return ".".join(path)


def _can_be_key(seen: Seen, n_lines: int) -> bool:
    if seen.distinct is None or len(seen.distinct) != n_lines or seen.texts.has_nul:
        return False
    common = seen.common_kind
    if seen.ints.n == n_lines or common == "number":
        return int(seen.ints.low) in INT8 and int(seen.ints.high) in INT8
    return (seen.texts.n == n_lines or common == "text") and seen.texts.shortest > 0 and seen.texts.longest <= MAX_KEY_CHARACTERS


def _why_not(sample: Sample) -> str:
    """What is called like a key, and unique, and not taken because of a few of its values; "": nothing is."""
    for path, seen in single_values(sample.root):
        n = sample.n_lines
        if snake(path[-1]).rpartition("_")[2] in KEY_WORDS and seen.ints.n == n and seen.distinct and len(seen.distinct) == n:
            return (
                f"{_evidence(written(path), n, n)}, but it has numbers beyond bigint, which may be damaged; --key {written(path)} takes it"
            )
    return ""


def _evidence(title: str, n_different: int, n_lines: int) -> str:
    return f"{title}: unique in {n_different:,} of {n_lines:,} lines"
