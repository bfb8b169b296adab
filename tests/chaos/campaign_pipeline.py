"""The campaign's pipeline, as a user would write it: five tables, one for each way in which a fault can show.

``events`` takes every row, so a chunk that is loaded twice doubles its rows. ``keyed`` refuses a key that is there, so a second time is
a reject. ``firsts`` and ``latest`` are met by lines of many chunks; ``totals`` adds up, so it shows what was added twice or not at all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import protheon_dask as protheon
from protheon_dask import Column, Table

EVENTS = Table(
    name="campaign.events",
    columns=(
        Column("id", "bigint", not_null=True),
        Column("child", "integer", not_null=True),
        Column("word", "text", not_null=True),
        Column("pad", "text", not_null=True),
    ),
)
KEYED = Table(
    name="campaign.keyed",
    columns=(Column("key", "text"), Column("id", "bigint", not_null=True), Column("word", "varchar(16)", not_null=True)),
    primary_key=("key",),
    on_conflict="error",
)
FIRSTS = Table(
    name="campaign.firsts",
    columns=(Column("key", "text"), Column("id", "bigint", not_null=True), Column("word", "text", not_null=True)),
    primary_key=("key",),
    on_conflict="ignore",
    shared=True,
)
LATEST = Table(
    name="campaign.latest",
    columns=(
        Column("key", "text"),
        Column("at", "integer", not_null=True),
        Column("id", "bigint", not_null=True),
        Column("word", "text", not_null=True),
    ),
    primary_key=("key",),
    on_conflict="update",
    newer_by="at",
    shared=True,
)
TOTALS = Table(
    name="campaign.totals",
    columns=(Column("key", "text"), Column("n", "bigint", not_null=True), Column("lines", "bigint", not_null=True)),
    primary_key=("key",),
    on_conflict="add",
    shared=True,
)


@protheon.pipeline(name="campaign", version="1", tables=[EVENTS, KEYED, FIRSTS, LATEST, TOTALS])
def campaign(raw: bytes) -> Iterator[Any]:
    """One line into all of its tables, or none."""
    line = json.loads(raw)
    if "wait_s" in line:
        time.sleep(line["wait_s"])
    if "poison" in line:
        os._exit(9)  # as a segmentation fault in a library would end the process
    if "skip" in line:
        yield protheon.FILTERED
        return
    if "nothing" in line:
        return
    yield EVENTS, (line["id"], 0, line["word"], line.get("pad", ""))
    if line.get("total") is not None:
        yield TOTALS, (line["total"], line["n"], 1)
    for child_no, child in enumerate(line.get("children", ()), start=1):
        yield EVENTS, (line["id"], child_no, line["word"], "")
        yield TOTALS, (child["total"], child["n"], 1)
    if line.get("first") is not None:
        yield FIRSTS, (line["first"], line["id"], line["word"])
    if line.get("latest") is not None:
        yield LATEST, (line["latest"], line["at"], line["id"], line["word"])
    for part in line.get("parts", ()):
        yield protheon.Reject("this part is not wanted", part=part)
    if "refuse" in line:
        raise protheon.Reject(line["refuse"])
    if "key" in line:
        yield KEYED, (line["key"], line["id"], line["word"])
