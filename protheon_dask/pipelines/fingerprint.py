"""A hash of a pipeline's code: to warn when the code changed and its version did not."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from types import CodeType, FunctionType
from typing import Any

from protheon_dask.pipelines.find import is_installed
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.pipelines.table import Table


def code_hash(pipeline: Pipeline) -> bytes:
    """Hash what the pipeline does: its function or form, what these name of the author's own code, and its tables.

    Shapes:     32 bytes. Comments, layout and places of lines do not count, nor does what is installed, nor the table of one that
                is built in, which is chosen beside it.
    Guarantee:  the same code gives the same hash in every process; where no source is to be had (an interactive session),
                of one Python minor version.
    """
    start: Any = pipeline.form.function
    mac = sha256()
    if getattr(start, "__module__", "").split(".")[0] == __name__.split(".")[0]:
        start = type(pipeline.form)  # built in: its form is its code
    else:  # said on their own: of a class that was written in a cell no source may be had
        mac.update(f"{[_table(table) for table in pipeline.tables]}\n".encode())
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        names = getattr(sys.modules.get(thing.__module__), "__dict__", None) or getattr(thing, "__globals__", {})
        text, used = _text_and_names(thing)
        mac.update(f"{thing.__qualname__}\n{text}\n".encode())
        found = [(name, names[name]) for name in sorted(used) if name in names]
        if isinstance(thing, FunctionType) and thing.__closure__:
            cells = zip(thing.__code__.co_freevars, thing.__closure__, strict=True)
            found += [(name, cell.cell_contents) for name, cell in cells if _full(cell)]
        for name, value in found:
            if isinstance(value, (FunctionType, type)) and _is_own(value, thing):
                waiting.append(value)
            elif (constant := _constant(value)) is not None:
                mac.update(f"{name}={constant}\n".encode())
    return mac.digest()


def _table(table: Table) -> str:
    plain = replace(table, comment=None, columns=tuple(replace(column, comment=None) for column in table.columns))
    return json.dumps(plain.to_json(), sort_keys=True)


def _text_and_names(thing: Any) -> tuple[str, set[str]]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        codes = list(_codes(thing))
        return repr([(code.co_code, _constants(code), code.co_names) for code in codes]), {name for code in codes for name in code.co_names}
    return ast.dump(tree), {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _codes(thing: Any) -> Iterator[CodeType]:
    functions = [thing] if isinstance(thing, FunctionType) else [value for value in vars(thing).values() if isinstance(value, FunctionType)]
    waiting = [function.__code__ for function in functions]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _constants(code: CodeType) -> list[str]:
    return [text for constant in code.co_consts if (text := _constant(constant)) is not None]


def _constant(value: Any) -> str | None:
    """A constant as text that does not hang on addresses or hash seeds; None for anything else."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        members = [_constant(member) for member in value]
        return repr(members) if all(member is not None for member in members) else None
    if isinstance(value, (set, frozenset)):
        texts = [_constant(member) for member in value]
        return repr(sorted(text for text in texts if text is not None))
    if isinstance(value, dict):
        pairs = [(_constant(key), _constant(member)) for key, member in value.items()]
        return repr(sorted(pair for pair in pairs if None not in pair))
    return None


def _is_own(value: Any, thing: Any) -> bool:
    """Whether a function or class is the author's too: in the same package, or in a neighbour that is not installed."""
    if not value.__module__ or value.__module__.split(".")[0] == thing.__module__.split(".")[0]:
        return bool(value.__module__)
    module = sys.modules.get(value.__module__)
    file = getattr(module, "__file__", None)
    return file is not None and not is_installed(file)


def _full(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
