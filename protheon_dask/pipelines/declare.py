"""The decorator: a pipeline of a function, by its annotations."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, get_args, get_origin, overload

import msgspec

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.batches import BatchForm
from protheon_dask.pipelines.lines import LineForm
from protheon_dask.pipelines.pipeline import Form, Pipeline
from protheon_dask.pipelines.row import RowMeta, table_of
from protheon_dask.pipelines.table import Table


@overload
def pipeline(function: Callable[[Any], Any], /) -> Pipeline: ...
@overload
def pipeline(
    *, name: str | None = None, version: str = "1", tables: Sequence[Table | type[Any]] | None = None
) -> Callable[[Callable[[Any], Any]], Pipeline]: ...
def pipeline(
    function: Callable[[Any], Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "1",
    tables: Sequence[Table | type[Any]] | None = None,
) -> Pipeline | Callable[[Callable[[Any], Any]], Pipeline]:
    """Make a pipeline of a function of one parameter, whose annotation chooses what the function is given.

    Shapes:     ``bytes`` one line; ``dict``, a msgspec.Struct, a Row class or anything else that msgspec decodes: one line
                of JSON (numbers in strings and ``3.0`` become ints where the type says so); ``list[bytes]``,
                ``pandas.DataFrame``, ``polars.DataFrame``, ``pyarrow.Table``: the batch's lines that are not blank, at most
                2,000 (a frame has a row for each JSON object and a column ``_line``).
                A function of a line returns or yields rows: a Row, ``(table, values)``, or, where there is one table, a
                tuple or dict of values. Verdicts: ``FILTERED``, ``raise Reject(..)``, ``yield Reject(.., part=..)``.
                A function of a batch returns a frame with ``_line``; ``{table: frame, FILTERED: line indexes}``; or
                yields or returns a list of ``(line, row or verdict)`` and dicts with ``_line``. It must be pure: it is
                called again on halves of a batch in which it failed.
    Raises:     ConfigError: the annotation is missing or means nothing, or the tables are unknown.
    """
    local_names = sys._getframe(1).f_locals

    def decorate(function: Callable[[Any], Any]) -> Pipeline:
        title = name if name is not None else function.__name__
        parameter, returned = _annotations(title, function, local_names)
        declared: tuple[object, ...] = tuple(tables) if tables is not None else tuple(_row_classes(returned))
        return Pipeline(
            name=title,
            version=version,
            tables=tuple(table_of(one) for one in declared),
            form=_form(title, function, parameter, tuple(one if isinstance(one, RowMeta) else None for one in declared)),
        )

    return decorate if function is None else decorate(function)


def _annotations(title: str, function: Callable[[Any], Any], local_names: Mapping[str, Any]) -> tuple[Any, Any]:
    """The annotations of the one parameter and of the result, resolved; None for a result that cannot be."""
    named = [p for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    parameters = [p for p in named if p.default is p.empty]
    if len(parameters) != 1:
        raise ConfigError(f"pipeline {title}: its function takes one parameter, this one takes {len(parameters)}")
    raw = getattr(function, "__annotations__", {})
    if parameters[0].name not in raw:
        raise ConfigError(
            f"pipeline {title}: annotate {parameters[0].name!r}: bytes, dict, a msgspec.Struct, list[bytes], pandas.DataFrame, "
            f"polars.DataFrame or pyarrow.Table; the annotation chooses what the function is given"
        )
    names = {**inspect.getclosurevars(function).nonlocals, **local_names} if inspect.isfunction(function) else dict(local_names)
    try:
        parameter = _resolve(raw[parameters[0].name], function, names)
    except NameError as error:
        raise ConfigError(f"pipeline {title}: the annotation of {parameters[0].name!r} cannot be resolved: {error}") from error
    try:
        return parameter, _resolve(raw.get("return"), function, names)
    except NameError:
        return parameter, None  # only needed where tables are not given, and then their absence is reported


def _resolve(annotation: Any, function: Callable[[Any], Any], names: Mapping[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    hints = typing.get_type_hints(holder, getattr(function, "__globals__", {}), dict(names), include_extras=True)
    return hints["it"]


def _row_classes(annotation: Any) -> list[RowMeta]:
    """Row classes with a table in an annotation such as ``Iterator[Order | Customer]``, in their order."""
    if isinstance(annotation, RowMeta):
        return [annotation] if annotation.__protheon_table__ is not None else []
    found: list[RowMeta] = []
    for argument in get_args(annotation):
        found += [cls for cls in _row_classes(argument) if cls not in found]
    return found


FRAMES: Final = {("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table")}


def _form(title: str, function: Callable[[Any], Any], parameter: Any, row_classes: tuple[RowMeta | None, ...]) -> Form:
    library = (getattr(parameter, "__module__", "") or "").split(".")[0]
    if (library, getattr(parameter, "__name__", "")) in FRAMES:
        return BatchForm(function, library, row_classes)
    if get_origin(parameter) is list and get_args(parameter) == (bytes,):
        return BatchForm(function, "lines", row_classes)
    if parameter in (str, bytearray, memoryview, list):
        raise ConfigError(f"pipeline {title}: {parameter.__name__} is no decoder; say bytes for one line or list[bytes] for a batch")
    if parameter is not bytes:
        try:
            unknown = isinstance(msgspec.inspect.type_info(parameter), msgspec.inspect.CustomType)
            msgspec.json.Decoder(parameter, strict=False)
        except (TypeError, NameError) as error:
            raise ConfigError(f"pipeline {title}: msgspec cannot decode lines to {parameter!r}: {error}") from error
        if unknown:
            raise ConfigError(f"pipeline {title}: msgspec cannot decode lines to {parameter!r}")
    return LineForm(function, parameter, row_classes)
