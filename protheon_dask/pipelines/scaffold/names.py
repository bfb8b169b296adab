"""Names for Python and PostgreSQL at once, made of whatever a JSON key is."""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata
from collections.abc import Collection, Container, Mapping
from typing import Final

MAX_NAME: Final = 40
"""Characters of a name that is made: a field and its type then stay on one line of 88."""
MAX_CLASS_NAME: Final = 30
IDENTIFIER_BYTES: Final = 63
"""PostgreSQL's limit of a name (NAMEDATALEN - 1)."""

_RESERVED = """
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
    current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc
    distinct do else end except false fetch for foreign from grant group having in initially intersect into lateral
    leading limit localtime localtimestamp not null offset on only or order placing primary references returning select
    session_user some symmetric system_user table then to trailing true union unique user using variadic when where
    window with authorization binary collation concurrently cross current_schema freeze full ilike inner is isnull join
    left like natural notnull outer overlaps right similar tablesample verbose
"""
SQL_RESERVED: Final = frozenset(_RESERVED.split())
"""Words that PostgreSQL takes for something else unless they are quoted: ``select user`` gives the role's name."""
SQL_SYSTEM: Final = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "oid"})
"""Columns that every table has: no other may be called so. oid was one up to PostgreSQL 11."""
ANNOTATIONS: Final = frozenset({"int", "str", "float", "bool", "list", "dt", "msgspec", "protheon"})
"""Names that types are written with: a field of that name would hide the type from the fields below it."""
_SIGN = re.compile(r"^[+-](?=[0-9])")  # GitHub's reactions: +1, -1
_CAMEL = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][^\W_A-Z\d])")


def snake(text: str, limit: int = MAX_NAME) -> str:
    """A lower-case identifier that reads like text: displayName, X-Request-ID and @timestamp as display_name, x_request_id
    and timestamp, Größe as grosse.

    Guarantee:  an identifier of Python, equal to its own NFKC form (Python compares names so), without a leading or trailing
                ``_``, of at most limit characters and 63 bytes. Different texts may give the same name.
    """
    text = _SIGN.sub(lambda sign: "plus_" if sign[0] == "+" else "minus_", text)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = unicodedata.normalize("NFKC", _CAMEL.sub("_", plain).casefold())
    words = [word for word in re.split(r"[\W_]+", plain) if word]
    name = "_".join(words) or ("empty" if not text else "unnamed")
    if not name.isidentifier():
        name = "c_" + name
    if not name.isidentifier():  # digits and marks that no name may have
        name = re.sub(r"[^a-z0-9]+", "_", name).strip("_") or "unnamed"
        name = "c_" + name if not name.isidentifier() else name
    name = name[:limit]
    while len(name.encode()) > IDENTIFIER_BYTES:
        name = name[:-1]
    return name.rstrip("_")


def camel(text: str) -> str:
    """A class's name: pull_request as PullRequest."""
    return "".join(word[:1].upper() + word[1:] for word in snake(text).split("_"))[:MAX_CLASS_NAME]


def singular(word: str) -> str:
    """One of several, by the plainest rules of English; what they do not know stays as it is."""
    if len(word) > 4 and word.endswith("ies") and word not in ("series", "species", "movies", "cookies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "nches", "rches", "tches", "xes", "zzes", "statuses", "buses", "viruses", "bonuses")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "news", "series", "species")):
        return word[:-1]
    return word


def unique(name: str, taken: Container[str], limit: int = MAX_NAME) -> str:
    """The name, or with _2, _3 .. behind it, that is not taken; no longer than the limit and 63 bytes."""
    tried, number = name, 1
    while tried in taken:
        number += 1
        end = f"_{number}"
        start = name[: limit - len(end)]
        while len((start + end).encode()) > IDENTIFIER_BYTES:
            start = start[:-1]
        tried = start.rstrip("_") + end
    return tried


def column_names(paths: Mapping[tuple[str, ...], tuple[str, ...]], taken: Collection[str]) -> dict[tuple[str, ...], str]:
    """Names of columns, by their paths, of the keys that tell of them: the last key and that of the object around it, or as many
    more as it takes to tell them apart, and then fewer or a number where that is too long."""
    words = {path: [snake(key) for key in telling] for path, telling in paths.items()}
    n_used = {path: min(2, len(telling)) for path, telling in paths.items()}
    while True:
        by_name: dict[str, list[tuple[str, ...]]] = {}
        for path in paths:
            by_name.setdefault("_".join(words[path][-n_used[path] :]), []).append(path)
        alike = [path for same in by_name.values() if len(same) > 1 for path in same if n_used[path] < len(words[path])]
        if not alike:
            break
        for path in alike:
            n_used[path] += 1
    names: dict[tuple[str, ...], str] = {}
    all_taken = set(taken)
    for path in paths:
        names[path] = column_name(words[path][-n_used[path] :], all_taken)
        all_taken.add(names[path])
    return names


def column_name(words: list[str], taken: Container[str]) -> str:
    """A column's name of some words: all of them, or, where that is too long, the end of them."""
    rest = words
    if len(words) > 1:
        rest = "_".join(words).split("_")
        while len(rest) > 1 and not fits("_".join(rest)):
            rest = rest[1:]
    name = snake("_".join(rest))
    if keyword.iskeyword(name) or name in SQL_RESERVED or name in SQL_SYSTEM or name in ANNOTATIONS:
        name += "_"
    return unique(name, taken)


def can_be_field(key: str) -> bool:
    """Whether msgspec can look for the key: it takes none that JSON has to escape."""
    return '"' not in key and "\\" not in key and all(c >= " " for c in key)


def fits(name: str) -> bool:
    return len(name) <= MAX_NAME and len(name.encode()) <= IDENTIFIER_BYTES


def field_name(key: str, taken: Container[str], limit: int = MAX_NAME) -> str:
    """A struct's field for a key."""
    name = snake(key, limit)
    if keyword.iskeyword(name) or name in ANNOTATIONS:
        name += "_"
    return unique(name, taken, limit)


def class_name(wanted: str, taken: Container[str], within: str = "") -> str:
    """A class's name that hides no built-in one and none of those taken; within: goes before a name that is taken."""
    name = camel(wanted)
    if name == name.lower():  # a script without capitals: a field of that name would hide the class
        name += "Value"
    if name in taken and within:
        name = (within + name)[:MAX_CLASS_NAME]
    if hasattr(builtins, name):
        name += "Value"
    tried, number = name, 1
    while tried in taken:
        number += 1
        tried = f"{name}{number}"
    return tried


def variable_name(wanted: str, taken: Container[str]) -> str:
    """A variable's name that hides no built-in one and none of those taken."""
    name = snake(wanted, 20)
    if keyword.iskeyword(name) or hasattr(builtins, name) or name in ANNOTATIONS:
        name += "_"
    return unique(name, taken, 24)


def literal(text: str) -> str:
    """A string literal as the formatter writes it: double quotes unless that takes more backslashes; readable where it prints."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_escaped(c, quote) for c in text) + quote


def _escaped(c: str, quote: str) -> str:
    if c in ("\\", quote):
        return "\\" + c
    return shown(c) if c != "\n" else "\\n"


def shown(text: str) -> str:
    """Text for a comment or a docstring: letters and digits of every script as they are, ASCII but for backslashes and quotes
    that would end a docstring; all else escaped, so that nothing invisible or reordering gets into a source file."""
    parts = []
    for c in text:
        if (c.isascii() and c.isprintable()) or unicodedata.category(c) in ("Ll", "Lu", "Lo", "Nd"):
            parts.append(c)
        else:
            number = ord(c)
            parts.append(f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")
    return "".join(parts)


def docstring(text: str) -> str:
    """Text that neither ends a docstring nor begins an escape in it."""
    return shown(text).replace("\\", "\\\\").replace('"', "'")
