"""Reports and results of SQL as pandas DataFrames, with a dtype for each column, however few rows there are."""

from __future__ import annotations

import base64
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from protheon_dask.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

ROWS: Final = 1_000
"""Rows of a report that was not asked for more: a run may have millions of chunks."""
MOST_ROWS: Final = 2**31 - 1
"""Rows of a report without a limit: what the protocol can say."""

Kind = Literal["int", "float", "bool", "text", "category", "time", "bytes", "list"]

DTYPES: Final[Mapping[Kind, str]] = {
    "int": "Int64",  # nullable: a bigint beyond 2^53 would not survive as a float
    "float": "float64",
    "bool": "boolean",
    "text": "string",
    "category": "category",
    "time": "datetime64[us, UTC]",  # PostgreSQL's own precision
    "bytes": "object",
    "list": "object",
}


def _columns(**kinds: str) -> dict[str, Kind]:
    """Columns of a report by kind, each a text of names, in any order."""
    return {name: kind for kind, names in kinds.items() for name in names.split()}  # type: ignore[misc]  # the keywords are kinds


COLUMNS: Final[Mapping[str, Mapping[str, Kind]]] = {
    "files": _columns(
        int="load_id owner_run_id damaged_at_bytes chunk_lines n_chunks size_bytes chunks chunks_done chunks_dead "
        "lines loaded filtered rejected blank",
        text="path split_message",
        category="joined split_state undo_state",
        time="finished_at retired_at undone_at",
    ),
    "chunks": _columns(
        int="task_id load_id chunk_no first_line n_lines byte_offset raw_bytes stored_bytes generation attempt_no failures crashes losses",
        bool="oversized",
        category="state",
        time="ready_at lease_until_at",
    ),
    "attempts": _columns(
        int="task_id attempt_no load_id chunk_no run_id lines loaded filtered rejected blank rejected_parts raw_bytes wire_bytes",
        float="wait_s fetch_s decompress_s transform_s copy_s merge_s ledger_s commit_s",
        text="process_uuid message traceback",
        category="worker host outcome cost error_class sqlstate",
        time="started_at ended_at",
    ),
    "rejects": _columns(
        int="id load_id run_id task_id line byte_offset raw_bytes replayed_by",
        text="path part reason",
        category="sqlstate table_name",
        bytes="raw",
    ),
    "dead_letters": _columns(
        int="task_id attempt_no load_id run_id chunk_no first_line n_lines byte_offset raw_bytes",
        text="path message traceback",
        category="reason status task_state handler host worker error_class sqlstate pipeline_name pipeline_reference",
        time="died_at replayed_at purged_at",
    ),
    "runs": _columns(
        int="run files undone chunks lines rejected",
        float="seconds",
        text="state_reason",
        category="state pipeline_name pipeline_version",
        time="submitted_at ended_at",
        list="paths gone_on_by",
    ),
}
"""What each report has, and what it is: the ledger's own statements, checked by test."""

FIRST: Final[Mapping[str, tuple[str, ...]]] = {"rejects": ("line", "reason", "raw")}
"""Columns of a DataFrame that stand before the others: a printed one shows its first and last few."""


def limit_of(limit: int | None, *, least: int = 0) -> int | None:
    """How many at most, of what a person asked for: the same by the database and by the master. None: all.

    least:  1 where the protocol says 0 for all.
    Raises: ConfigError: it is no whole number, or below least.
    """
    if limit is None:
        return None
    try:
        number = operator.index(limit)  # numpy's, too
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigError(f"limit={limit!r}: give a whole number, {least} or more, or None for all")
    return min(number, MOST_ROWS - 1)  # one more is asked for, to tell whether there are more


class MoreRows(UserWarning):
    """A report has more rows than were asked for by default."""


def report_frame(name: str, rows: Sequence[Mapping[str, Any]], limit: int | None) -> pd.DataFrame:
    """A report as a DataFrame: one row beyond the limit tells that there are more.

    limit:     None: all. With ROWS, which is the default of every report, a warning (MoreRows) says that there are more.
    Guarantee: ``attrs`` holds ``report``, ``limit`` and ``more``: whether rows were left out. The dtypes are the same for no rows.
    """
    import pandas as pd

    shown = rows[:limit]
    kinds = COLUMNS[name]
    order = list(dict.fromkeys([*FIRST.get(name, ()), *(rows[0] if rows else kinds)]))
    frame = pd.DataFrame({column: _series([row[column] for row in shown], kinds.get(column, "list")) for column in order})
    frame.attrs.update(report=name, limit=limit, more=len(shown) < len(rows))
    if limit == ROWS and len(shown) < len(rows):
        warnings.warn(MoreRows(f"the first {ROWS:,} rows of {name}: there are more; limit=N gives N of them, limit=None all"), stacklevel=4)
    return frame


def sql_frame(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Rows of a person's own SQL as a DataFrame; each column's dtype is that of its values, NULL is ``<NA>`` or ``NaT``."""
    import pandas as pd

    series = [_series([row[n] for row in rows], _kind([row[n] for row in rows])) for n in range(len(columns))]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame()
    frame.columns = pd.Index(columns)  # two may have one name
    return frame


def _series(values: list[Any], kind: Kind) -> pd.Series[Any]:
    import pandas as pd

    if kind in ("text", "category"):
        values = [None if value is None else str(value) for value in values]
    if kind == "category":  # of texts of the other columns' dtype: what is missing is <NA> in both
        return pd.Series(pd.Categorical(pd.array(values, dtype="string")))
    return pd.Series(values, dtype=DTYPES[kind])


_KINDS: Final[Mapping[type, Kind]] = {int: "int", float: "float", bool: "bool", str: "text", datetime: "time", UUID: "text"}


def _kind(values: Sequence[Any]) -> Kind:
    """What all values are, but for NULL; what is mixed, or has no dtype of its own, is left as it is."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) != 1:
        return "list"
    [kind] = kinds
    if kind is int and any(not -(2**63) <= value < 2**63 for value in values if value is not None):
        return "list"  # a numeric without decimals may be any length
    if kind is datetime and any(value.tzinfo is None for value in values if value is not None):
        return "list"
    return _KINDS.get(kind, "list")


# --- JSON: bytes are base64, a time is RFC 3339 ---------------------------------------------------------------------------------


def to_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the ledger as a JSON value."""
    return {name: _PLAIN.get(type(value), _same)(value) for name, value in row.items()}


def from_json(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a report as to_json() was given it, but for UUIDs, which stay text."""
    kinds = COLUMNS.get(name, {})
    return {column: value if value is None else _READ.get(kinds.get(column, "list"), _same)(value) for column, value in row.items()}


def _same(value: Any) -> Any:
    return value


_PLAIN: Final[Mapping[type, Callable[[Any], Any]]] = {
    datetime: lambda value: value.astimezone(UTC).isoformat(),
    bytes: lambda value: base64.b64encode(value).decode(),
    UUID: str,
}
_READ: Final[Mapping[Kind, Callable[[Any], Any]]] = {"time": datetime.fromisoformat, "bytes": base64.b64decode}
