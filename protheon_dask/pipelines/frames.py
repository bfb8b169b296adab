"""Frames in and out of batch pipelines. pandas, polars and pyarrow are imported only where a pipeline uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from protheon_dask.errors import ConfigError, MissingSetting
from protheon_dask.pipelines.table import Table

LINE: Final = "_line"
"""The column of a frame, or the key of a dict, that names the line a row came from: its index in the batch given."""

INTEGER_TYPES: Final = frozenset({"bigint", "int8", "integer", "int", "int4", "smallint", "int2"})


def is_frame(value: object) -> bool:
    """Whether a value is a frame: it exports Arrow, or is of pandas (which exports only where pyarrow is)."""
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__") or _library(value) == "pandas"


EXACT_INTS: Final = 2**53
"""Integers up to here, and not all beyond, are the same number as a float."""

POLARS_LEVELS: Final = 32
"""Nested lists and objects that a polars frame takes: its time grows with a power of them (measured: 0.3 s to filter 50 rows of 32
levels, 4 s of 100, more than a minute of 980)."""


def make_frame(library: str, documents: list[dict[str, Any]], names: Iterable[str]) -> Any:
    """Make a frame with a row for each document and the column _line, counted from 0.

    Shapes:     names: the columns, whether these documents have them or not. Every value of a document is in the frame as it
                is, or the frame is not made: what another line has changes no value. In pandas and polars a column of values
                of different types holds Python's objects; whole numbers beside a gap are Int64 in pandas.
    Raises:     what the library raises where values of one key have types that do not go together; ValueError for documents
                that are nested too deeply.
    """
    columns = {name: [document.get(name) for document in documents] for name in names if name != LINE}
    columns[LINE] = list(range(len(documents)))
    if library == "pandas":
        import pandas

        return pandas.DataFrame({name: _pandas_column(pandas, values) for name, values in columns.items()})
    if library == "polars":
        import polars

        if any(_levels(values) > POLARS_LEVELS for values in columns.values()):
            raise ValueError(f"nested more than {POLARS_LEVELS} levels deep, which a polars frame cannot take in any useful time")
        plain = {name: values for name, values in columns.items() if _go_together(values)}
        rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
        frame = polars.from_dicts(rows, infer_schema_length=None)
        mixed = [polars.Series(name, values, dtype=polars.Object) for name, values in columns.items() if name not in plain]
        return frame.with_columns(mixed).select(list(columns))
    import pyarrow  # type: ignore[import-untyped]

    return pyarrow.table(columns)


def _pandas_column(pandas: Any, values: list[Any]) -> Any:
    kinds = set(map(type, values))
    if kinds == {int, type(None)} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pandas.array(values, dtype="Int64")  # as floats, ids beside a gap would become other ids
    if kinds == {int, type(None)} or (int in kinds and not _go_together(values)):
        return pandas.Series(values, dtype=object)
    return values


def _go_together(values: Sequence[Any]) -> bool:
    """Tell whether values fit one type of a column, and their parts too, without any of them becoming another value."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {int, float}:
        return all(type(value) is not int or _is_exact(value) for value in values)
    if len(kinds) > 1:
        return False
    if kinds == {dict}:
        documents = [value for value in values if value is not None]
        names = dict.fromkeys(chain.from_iterable(documents))
        return all(_go_together([document.get(name) for document in documents]) for name in names)
    if kinds == {list}:
        return _go_together(list(chain.from_iterable(value for value in values if value is not None)))
    return True


def _is_exact(value: int) -> bool:
    if -EXACT_INTS <= value <= EXACT_INTS:
        return True
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _levels(values: Iterable[Any]) -> int:
    """Count the levels of lists and objects in values, up to one more than a polars frame takes."""
    for level in range(POLARS_LEVELS + 1):
        nested = [value for value in values if type(value) is dict or type(value) is list]
        if not nested:
            return level
        values = chain.from_iterable(value.values() if type(value) is dict else value for value in nested)
    return POLARS_LEVELS + 1


def panics(library: str) -> tuple[type[BaseException], ...]:
    """What a library raises beside Exceptions where its own code gives up: polars lets Rust's panics through as a BaseException."""
    if library != "polars":
        return ()
    import polars

    return (polars.exceptions.PanicException,)


def read_frame(frame: Any, table: Table) -> tuple[list[int], list[tuple[Any, ...]], dict[int, str]]:
    """Give each row's line, its values in the order of the table's columns, and by their place the rows that are refused, with why.

    Shapes:     missing values (NaN in pandas too) are None; columns of the frame may stand in any order, and may be missing.
                A row is refused that has a value in a column which the table does not have: most come from one line's key.
    Raises:     ConfigError: _line is missing.
    """
    library = _library(frame)
    if library == "pandas":
        names = [str(name) for name in frame.columns]
        read: Callable[[Any], list[Any]] = _pandas_values
    elif library == "polars":
        frame = frame.collect() if hasattr(frame, "collect") else frame
        names, read = list(frame.columns), _to_list
    else:
        frame = _arrow_table(frame)
        names, read = list(frame.column_names), _to_pylist
    if LINE not in names:
        raise ConfigError(f"the frame for {table.name} has no column {LINE!r}: keep it, it says which line a row came from")
    columns: list[Sequence[Any]] = []
    for column in table.columns:
        values = read(frame[column.name]) if column.name in names else [None] * len(frame)
        if column.type.removesuffix("[]") in INTEGER_TYPES:
            values = _as_ints(values)
        columns.append(values)
    known = {column.name for column in table.columns}
    refused: dict[int, str] = {}
    for name in names:
        if name not in known and name != LINE:
            places = [place for place, value in enumerate(read(frame[name])) if value is not None]
            refused |= dict.fromkeys(places, f"table {table.name}: no column {name!r}")
    lines = frame[LINE].to_pylist() if library == "pyarrow" else list(frame[LINE])
    return [int(line) for line in lines], list(zip(*columns, strict=True)), refused


def _as_ints(values: list[Any]) -> list[Any]:
    """Take whole floats for the ints that they were: ints beside a gap are floats in pandas, beside a fraction in all libraries."""
    return [_as_ints(v) if isinstance(v, list) else int(v) if isinstance(v, float) and v.is_integer() else v for v in values]


def _to_list(series: Any) -> list[Any]:
    values: list[Any] = series.to_list()
    return values


def _to_pylist(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _pandas_values(series: Any) -> list[Any]:
    kind = series.dtype.kind
    if kind == "M":
        return [None if value is None else value.to_pydatetime(warn=False) for value in series.astype(object).where(series.notna(), None)]
    values = series.astype(object).where(series.notna(), None).tolist()
    if kind == "m":
        return [None if value is None else value.to_pytimedelta() for value in values]
    return [value.tolist() if _library(value) == "numpy" else value for value in values] if kind == "O" else values


def _arrow_table(frame: Any) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingSetting(f"a pipeline returned {type(frame).__name__}; reading it needs pyarrow: pip install pyarrow") from error
    return frame if isinstance(frame, pyarrow.Table) else pyarrow.table(frame)


def _library(value: object) -> str:
    library = type(value).__module__.split(".")[0]
    return library if library in ("pandas", "polars", "numpy") else "pyarrow"
