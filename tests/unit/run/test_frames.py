"""DataFrames of reports and of SQL: dtypes that do not depend on the rows, numbers that stay what they are, and what is left out."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.run.frames import COLUMNS, DTYPES, ROWS, MoreRows, from_json, limit_of, report_frame, sql_frame, to_json

AT = datetime(2026, 3, 1, 12, 30, 15, 123_456, tzinfo=timezone(timedelta(hours=2)))
UUID_TEXT = "00000000-0000-0000-0000-00000000002a"
VALUES = {
    "int": 2**53 + 1,
    "float": 0.1,
    "bool": True,
    "text": "ü\u202e",
    "category": "ready",
    "time": AT,
    "bytes": b"\xff\x00",
    "list": ["a"],
}


def row(name: str) -> dict[str, Any]:
    return {column: VALUES[kind] for column, kind in COLUMNS[name].items()}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_report_has_the_same_dtypes_for_no_rows_for_values_and_for_nothing_but_null(name: str) -> None:
    want = {column: DTYPES[kind] for column, kind in COLUMNS[name].items()}
    for rows in ([], [row(name)], [dict.fromkeys(COLUMNS[name])], [row(name), dict.fromkeys(COLUMNS[name])]):
        frame = report_frame(name, rows, ROWS)
        assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == want
        assert len(frame) == len(rows)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_row_is_the_same_after_its_way_as_json(name: str) -> None:
    rows = [row(name), dict.fromkeys(COLUMNS[name])]
    travelled = [from_json(name, json.loads(json.dumps(to_json(one)))) for one in rows]
    assert travelled == rows
    pd.testing.assert_frame_equal(report_frame(name, travelled, None), report_frame(name, rows, None))


def test_a_uuid_is_text_on_both_ways() -> None:
    known = {"task_id": 1, "process_uuid": UUID(int=42)}
    travelled = from_json("attempts", json.loads(json.dumps(to_json(known))))
    for one in (known, travelled):
        assert list(report_frame("attempts", [one], None).process_uuid) == [UUID_TEXT]


@pytest.mark.parametrize("name", COLUMNS)
def test_what_is_missing_looks_the_same_in_all_columns_of_texts(name: str) -> None:
    texts = [column for column, kind in COLUMNS[name].items() if kind in ("text", "category")]
    for rows in ([row(name), dict.fromkeys(COLUMNS[name])], [dict.fromkeys(COLUMNS[name])]):
        frame = report_frame(name, rows, None)
        shown = frame[texts].to_string()
        assert (shown.count("<NA>"), "NaN" in shown) == (len(texts), False)


def test_numbers_beyond_a_floats_precision_and_bytes_stay_what_they_are() -> None:
    frame = report_frame("rejects", [row("rejects"), dict.fromkeys(COLUMNS["rejects"])], None)
    assert list(frame.columns[:3]) == ["line", "reason", "raw"], "a printed frame shows its first columns"
    assert (frame.line[0], frame.raw[0]) == (2**53 + 1, b"\xff\x00")
    assert frame.line.isna().tolist() == [False, True]


def test_a_column_that_a_newer_master_sends_is_kept_as_it_is() -> None:
    frame = report_frame("files", [{"load_id": 1, "mood": "good"}], None)
    assert (list(frame.columns), frame.mood[0]) == (["load_id", "mood"], "good")


def test_rows_that_the_default_leaves_out_are_warned_of_and_those_of_an_own_limit_are_only_noted() -> None:
    rows = [{"task_id": n} for n in range(ROWS + 1)]
    with pytest.warns(MoreRows, match="the first 1,000 rows of chunks: there are more; limit=N gives N of them, limit=None all"):
        frame = report_frame("chunks", rows, ROWS)
    assert (len(frame), frame.attrs) == (ROWS, {"report": "chunks", "limit": ROWS, "more": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit, n_rows, more in ((3, 3, True), (ROWS + 1, ROWS + 1, False), (None, ROWS + 1, False)):
            frame = report_frame("chunks", rows, limit)
            assert (len(frame), frame.attrs["more"]) == (n_rows, more)
        assert not report_frame("chunks", rows[:ROWS], ROWS).attrs["more"]


def is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value  # NaN


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([2**60, None], "Int64"),
        ([2**70, 1], "object"),
        ([1.5, None], "float64"),
        ([True, None], "boolean"),
        (["x", None], "string"),
        ([AT, None], "datetime64[us, UTC]"),
        ([AT.replace(tzinfo=None), None], "object"),
        ([Decimal("0.10")], "object"),
        ([b"\xff"], "object"),
        ([[1, 2], None], "object"),
        ([{"a": 1}], "object"),
        ([1, "x"], "object"),
        ([None], "object"),
        ([], "object"),
    ],
    ids=repr,
)
def test_a_column_of_sql_has_the_dtype_of_its_values(values: list[Any], dtype: str) -> None:
    frame = sql_frame(["v"], [(value,) for value in values])
    assert str(frame.v.dtype) == dtype
    assert [None if is_missing(one) else one for one in frame.v] == values


def test_columns_of_one_name_both_stay_and_a_statement_without_an_answer_is_an_empty_frame() -> None:
    frame = sql_frame(["n", "n"], [(1, "a")])
    assert (list(frame.columns), frame.iloc[0].tolist()) == (["n", "n"], [1, "a"])
    assert sql_frame([], []).shape == (0, 0)
    assert sql_frame(["n"], []).shape == (0, 1)


def test_times_are_utc() -> None:
    assert sql_frame(["at"], [(AT,)]).at[0, "at"] == AT
    assert str(sql_frame(["at"], [(AT,)]).at[0, "at"].tz) == "UTC"
    assert to_json({"at": AT}) == {"at": AT.astimezone(UTC).isoformat()}


@pytest.mark.parametrize(("limit", "same"), [(None, None), (0, 0), (7, 7), (np.int64(7), 7), (2**31 - 1, 2**31 - 2), (10**20, 2**31 - 2)])
def test_a_limit_is_what_the_database_and_the_protocol_can_say(limit: int | None, same: int | None) -> None:
    assert limit_of(limit) == same


@pytest.mark.parametrize("limit", [-1, 2.5, "7", -(2**40)])
def test_a_limit_that_has_no_meaning_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"^limit=.*: give a whole number, 0 or more, or None for all$"):
        limit_of(limit)
    with pytest.raises(ConfigError, match="1 or more"):
        limit_of(0, least=1)
