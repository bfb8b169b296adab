"""``protheon preview``: the same preview as the library's, drawn or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protheon_dask.cli.main import main

ORDERS = """
import protheon_dask as protheon

T = protheon.Table(name="shop.orders", columns=(protheon.Column("n", "integer"), protheon.Column("said", "text")))

@protheon.pipeline(tables=[T])
def orders(line: bytes):
    if line == b"short":
        raise MemoryError("no room")
    return int(line), "x" * 300
"""


@pytest.fixture
def orders(tmp_path: Path) -> str:
    (tmp_path / "orders.py").write_text(ORDERS)
    (tmp_path / "orders.txt").write_bytes(b"1\n\n3000000000\nfour\n5\nshort\n")
    return f"{tmp_path}/orders.py:orders"


def test_rows_and_rejects_are_drawn_and_what_is_open_goes_to_stderr(orders: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", f"{tmp_path}/orders.txt", "--pipeline", orders]) == 0
    out, err = capfd.readouterr()
    assert "orders (version 1) on the first 5 lines of" in out
    assert "2 loaded, 2 rejected, 1 blank" in out
    assert "shop.orders: 2 rows" in out
    assert "ValueError: invalid literal for int() with base 10: b'four' (orders.py:10 in orders)" in out
    assert "22003" in out
    assert "PostgreSQL was not asked" in err


def test_json_has_every_value_whole(orders: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", f"{tmp_path}/orders.txt", "--pipeline", orders, "-n", "3", "--json"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert value["tables"] == [{"table": "shop.orders", "rows": [{"line": 1, "values": {"n": 1, "said": "x" * 300}}]}]
    assert (value["lines"], value["loaded"], value["rejected"], value["blank"], value["filtered"]) == (3, 1, 1, [2], [])
    [reject] = value["rejects"]
    assert (reject["line"], reject["byte_offset"], reject["sqlstate"], reject["raw_base64"]) == (3, 3, "22003", "MzAwMDAwMDAwMA==")


def test_jsonl_is_the_default_and_takes_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").write_text('{"a": 1}\n')
    assert main(["preview", f"{tmp_path}/events.jsonl", "--table", "raw.events"]) == 0
    assert "raw.events: 1 row" in capfd.readouterr().out


def test_an_error_of_the_pipeline_that_is_no_lines_fault_is_the_operators(
    orders: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["preview", f"{tmp_path}/orders.txt", "--pipeline", orders, "-n", "9"]) == 2
    assert "MemoryError: no room; no line is at fault, and a chunk of these lines would fail" in capfd.readouterr().err
