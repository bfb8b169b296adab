"""Frames in and out of batch pipelines. pandas, polars and pyarrow are imported only where a pipeline uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from protheon_dask.errors import ConfigError, MissingSetting
from protheon_dask.pipelines.table import Table

LINE: Final = "_line"
"""The column of a frame, or the key of a dict, that names the line a row came from: its index in the batch given."""

INTEGER_TYPES: Final = frozenset({"bigint", "int8", "integer", "int", "int4", "smallint", "int2"})


def is_frame(value: object) -> bool:
    """Whether a value is a frame: it exports Arrow, or is of pandas (which exports only where pyarrow is)."""
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__") or _library(value) == "pandas"


def make_frame(library: str, documents: list[dict[str, Any]]) -> Any:
    """Make a frame with a row for each document and the column _line, counted from 0.

    Raises:     what the library raises where values of one key have types that do not go together.
    """
    rows = [{**document, LINE: index} for index, document in enumerate(documents)]
    if library == "pandas":
        import pandas

        return pandas.DataFrame.from_records(rows)
    if library == "polars":
        import polars

        return polars.from_dicts(rows, infer_schema_length=None)
    import pyarrow  # type: ignore[import-untyped]

    names = dict.fromkeys(name for row in rows for name in row)  # from_pylist would take the first row's names alone
    return pyarrow.table({name: [row.get(name) for row in rows] for name in names})


def read_frame(frame: Any, table: Table) -> tuple[list[int], list[tuple[Any, ...]]]:
    """Give each row's line and its values in the order of the table's columns.

    Shapes:     missing values (NaN in pandas too) are None; columns of the frame may stand in any order.
    Raises:     ConfigError: _line or a NOT NULL column is missing, or there is a column that the table does not have.
    """
    library = _library(frame)
    if library == "pandas":
        names = [str(name) for name in frame.columns]
    elif library == "polars":
        frame = frame.collect() if hasattr(frame, "collect") else frame
        names = list(frame.columns)
    else:
        frame = _arrow_table(frame)
        names = list(frame.column_names)
    _check(names, table)
    columns: list[Sequence[Any]] = []
    for column in table.columns:
        if column.name not in names:
            columns.append([None] * len(frame))
            continue
        series = frame[column.name]
        match library:
            case "pandas":
                values = _pandas_values(series)
            case "polars":
                values = series.to_list()
            case _:
                values = series.to_pylist()
        if column.type in INTEGER_TYPES:
            values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]  # ints beside a gap are floats in pandas
        columns.append(values)
    lines = frame[LINE].to_pylist() if library == "pyarrow" else list(frame[LINE])
    return [int(line) for line in lines], list(zip(*columns, strict=True))


def _check(names: list[str], table: Table) -> None:
    if LINE not in names:
        raise ConfigError(f"the frame for {table.name} has no column {LINE!r}: keep it, it says which line a row came from")
    known = {column.name for column in table.columns}
    problems = [f"no column {name!r}" for name in names if name not in known and name != LINE]
    problems += [f"column {c.name!r} is missing" for c in table.columns if c.not_null and c.name not in names]
    if problems:
        raise ConfigError(f"the frame for {table.name} does not fit the table: " + "; ".join(problems))


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
