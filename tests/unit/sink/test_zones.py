"""A time with the wrong zone is refused in words that say what to write."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from protheon_dask.sink.catalog import TargetColumn
from protheon_dask.sink.copy import TIMESTAMP, TIMESTAMPTZ, _zone_fault

NAIVE = dt.datetime(2026, 1, 1, 10)
AWARE = NAIVE.replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("oid", "value", "words"),
    [
        (TIMESTAMPTZ, NAIVE, "it has no zone: write "),
        (TIMESTAMPTZ, "2026-01-01T10:00:00", "it has no zone: write "),
        (TIMESTAMPTZ, "2026-01-01", "it has no zone: write "),
        (TIMESTAMPTZ, [None, AWARE, [NAIVE]], "it has no zone: write "),
        (TIMESTAMP, AWARE, "it has a zone, and the column keeps none: "),
        (TIMESTAMP, "2026-01-01T10:00:00+01:00", "it has a zone, and the column keeps none: "),
        (TIMESTAMPTZ, AWARE, None),
        (TIMESTAMP, NAIVE, None),
        (TIMESTAMPTZ, "soon", None),
        (TIMESTAMPTZ, 5, None),
        (1082, NAIVE, None),
    ],
)
def test_a_time_with_the_wrong_zone_is_told_from_other_faults(oid: int, value: Any, words: str | None) -> None:
    column = TargetColumn("at", oid, oid, "timestamp", not_null=False, is_array=False)
    fault = _zone_fault(column, value)
    assert fault is None if words is None else str(fault).startswith(words)
