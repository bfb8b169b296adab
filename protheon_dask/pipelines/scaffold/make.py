"""From sampled lines to the text of a pipeline, and the proof that it takes them."""

from __future__ import annotations

import keyword
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.scaffold.keys import Key, given_key, guess_key
from protheon_dask.pipelines.scaffold.names import IDENTIFIER_BYTES, docstring, shown, snake, variable_name
from protheon_dask.pipelines.scaffold.observe import MAX_KEYS, Sample, observe
from protheon_dask.pipelines.scaffold.plan import Planner
from protheon_dask.pipelines.scaffold.render import render
from protheon_dask.pipelines.scaffold.shape import Decider, LeftOut
from protheon_dask.pipelines.verdict import way_on
from protheon_dask.words import counted

MODULE: Final = "protheon_scaffold_check"
TAKEN: Final = frozenset({"line", "clean", "dt", "msgspec", "protheon"})
"""Names that the file has for other things."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the lines are from. name: of the file, as comments say it; places: from where in it, in words; is_whole: all of them."""

    name: str
    places: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Scaffold:
    """A pipeline's source, and what is worth telling of it. n_rows: by table, what the sample's lines gave; n_rejected: refused."""

    text: str
    name: str
    n_lines: int
    n_rows: dict[str, int]
    n_rejected: int
    first_rejection: str
    notes: tuple[str, ...]


def scaffold(lines: Sequence[bytes], origin: Origin, *, table: str, name: str | None = None, key: Sequence[str] = ()) -> Scaffold:
    """Write a typed pipeline for lines like these, and call it on them.

    Shapes:     lines as a pipeline gets them. key: JSON keys, with points between those of objects within objects.
    Raises:     ConfigError: the lines are no JSON objects, or table, name or key cannot be used; says what to do.
    Guarantee:  the same lines, names and key give the same text.
    """
    function = _function_name(table, name)
    sample = observe(lines, is_whole=origin.is_whole)
    _refuse_what_is_no_object(sample, origin.name)
    chosen = given_key(sample, key) if key else guess_key(sample)
    nodes = Decider(sample, chosen.paths).nodes()
    if all(isinstance(node, LeftOut) for node in nodes):
        raise ConfigError(f"{origin.name}: its lines are empty objects, or have no key that a field can have; load them with jsonl")
    plan = Planner(table, function, chosen, sample.n_lines, origin.name).plan(nodes)
    text = render(plan, _doc(sample, origin, function), [*_key_comment(sample, chosen), PROVENANCE_COMMENT])
    n_rows, rejections = call(text, sample.lines)
    return Scaffold(
        text, function, sample.n_lines, n_rows, len(rejections), rejections[0] if rejections else "", tuple(_notes(sample, chosen))
    )


def call(text: str, lines: Sequence[bytes]) -> tuple[dict[str, int], list[str]]:
    """Run the source of a pipeline on lines; return its rows by table, and the reasons of the lines that it refuses."""
    module = types.ModuleType(MODULE)
    before = sys.modules.get(MODULE)
    sys.modules[MODULE] = module  # annotations are resolved in their module
    try:
        exec(compile(text, MODULE, "exec", dont_inherit=True), module.__dict__)
        [pipeline] = [value for value in vars(module).values() if isinstance(value, Pipeline)]
        rows = pipeline.open(ChunkContext(0, 0, "")).transform(lines, range(1, len(lines) + 1))
    finally:
        if before is None:
            del sys.modules[MODULE]
        else:
            sys.modules[MODULE] = before
    counts = {table.name: len(made.rows) for table, made in zip(pipeline.tables, rows.tables, strict=True)}
    return counts, [verdict.reason for verdict in rows.rejected]


def _function_name(table: str, name: str | None) -> str:
    schema, _, relation = table.rpartition(".")
    if not relation or "." in schema or (not schema and "." in table):
        raise ConfigError(f"--table {table}: a table is named schema.name, or name")
    if too_long := [part for part in (schema, relation) if len(part.encode()) > IDENTIFIER_BYTES]:
        raise ConfigError(f"--table {table}: {too_long[0]} has more than {IDENTIFIER_BYTES} bytes, PostgreSQL's limit of a name")
    if name is None:
        return variable_name(snake(relation), TAKEN)
    if not name.isidentifier() or keyword.iskeyword(name) or name in TAKEN:
        raise ConfigError(f"--name {name}: a name for a Python function is needed, such as {variable_name(name, TAKEN)}")
    return name


def _refuse_what_is_no_object(sample: Sample, name: str) -> None:
    """Raise ConfigError, with a way on, if most of the lines are something else than JSON objects."""
    n = sample.n_lines + sample.n_refused + sample.n_others
    if not n:
        raise ConfigError(f"{name}: there are no lines that are not blank")
    if sample.root.has_too_many_keys:
        raise ConfigError(
            f"{name}: its lines have more than {MAX_KEYS:,} different keys: they are data, and no columns can be made of them. "
            f"Load the lines as they are: protheon load FILE"
        )
    if 2 * sample.n_lines >= n:
        return
    if sample.n_others > sample.n_refused:
        kinds = " and ".join(sorted(sample.other_kinds))
        raise ConfigError(
            f"{name}: its lines are JSON {kinds}, and scaffold reads JSON objects. Load them as they are (protheon load FILE), "
            f"or write a pipeline that takes bytes or list (docs/pipelines.md)"
        )
    raise ConfigError(f"{name}: {sample.n_refused:,} of {n:,} lines are no JSON ({sample.first_reason}); {way_on(sample.first_refused)}")


def _doc(sample: Sample, origin: Origin, function: str) -> list[str]:
    name = docstring(origin.name)
    of_them = "all of them" if origin.is_whole else origin.places
    seen = f"{counted(sample.n_lines, 'line')} ({of_them})"
    doc = [
        f"Lines of {name} as rows of PostgreSQL.",
        "",
        f"Begun by `protheon scaffold` from {seen}; yours to edit. Try it:",
        "",
        f"    protheon load FILE --pipeline THIS_FILE.py:{function}",
        "",
        "Comments tell what the sample shows; what they cannot tell is yours to decide: the key, which",
        "columns you want, and better names. Fields that lines may lack are `| None` with a default; a",
        "line that does not fit the types is kept as a reject. Ints are bigint: a smaller type would",
        "refuse what outgrows it. What is jsonb has many shapes, or few rows have it.",
    ]
    if sample.n_refused:
        reason = docstring(sample.first_reason[:60])  # cut first: half an escape would be another one
        doc += ["", f"{counted(sample.n_refused, 'sampled line is', 'sampled lines are')} no JSON ({reason}), and refused."]
    if sample.n_others:
        doc += ["", f"{counted(sample.n_others, 'sampled line is no object', 'sampled lines are no objects')}, and refused."]
    return doc


PROVENANCE_COMMENT: Final = (
    "Provenance: each row keeps the number of its chunk (8 bytes). `protheon undo` and `protheon runs verify --deep` find rows by it."
)


def _key_comment(sample: Sample, key: Key) -> list[str]:
    if not key.paths:
        unique = f" Unique in the sample: {shown(', '.join(key.others[:5]))}." if key.others else ""
        why = f" Not taken: {shown(key.evidence)} (its column is numeric)." if key.evidence else ""
        return [
            "No key was found: the table takes every row, also a second time under --again. A value that tells lines apart "
            f"makes one: `protheon scaffold --key NAME`.{unique}{why}"
        ]
    twice = f" {sample.n_twice:,} lines stood twice and were looked at once." if sample.n_twice else ""
    comment = [f"Key {shown(key.evidence)}.{twice}"]
    if key.is_unique:
        comment.append(
            'Whether it is so beyond the sample is not known. "ignore": of rows with one key the first one stays, and others are '
            "counted as ignored, so that loading again is safe."
        )
    else:
        comment.append(
            'It is not unique: with "ignore" the first row of a key stays, and the others are counted as ignored. That goes for each '
            "row of the lists' tables by itself: those of two lines with one key may end up mixed."
        )
    comment.append('If later lines bring newer values, say on_conflict="update", newer_by=".." and shared=True.')
    if key.others:
        comment.append(f"Unique as well: {shown(', '.join(key.others[:5]))}.")
    return comment


def _notes(sample: Sample, key: Key) -> list[str]:
    """What a person should hear besides the file."""
    notes = []
    if key.paths and not key.is_unique:
        notes.append(f"the key is not unique ({key.evidence}): rows with an equal key will be ignored")
    if not key.paths:
        why = f" ({key.evidence})" if key.evidence else ""
        notes.append(f"no key was found{why}: lists of objects stay jsonb, and loading with --again would double the rows; --key names one")
    n = sample.n_lines + sample.n_refused + sample.n_others
    if sample.n_refused:
        notes.append(f"{_of_lines(sample.n_refused, n)} no JSON ({sample.first_reason}), and will be refused")
    if sample.n_others:
        notes.append(f"{_of_lines(sample.n_others, n)} no {'object' if sample.n_others == 1 else 'objects'}, and will be refused")
    return notes


def _of_lines(n: int, of: int) -> str:
    return f"{n:,} of {counted(of, 'line')} {'is' if n == 1 else 'are'}"
