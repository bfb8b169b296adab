"""The report of verify claims no more than was looked at, and calls nothing ok that differs."""

from __future__ import annotations

from pathlib import Path

from protheon_dask.cli.output import render
from protheon_dask.cli.verified import verified_drawing
from protheon_dask.run.api import TableCheck, Verdict, Verification

DOCUMENT = Path(__file__).parents[3] / "docs" / "inputs.md"
LINES, ROWS = "each chunk has one attempt that succeeded", "rows that are in the tables, chunk by chunk"
STANDS = TableCheck("public.a", True, Verdict.STANDS, n_rows=25, n_chunks=3, n_summed=3)
LOST = "table public.d: chunk 2 of /data/x.jsonl (lines 11 to 20): 10 rows were loaded, 9 are there: 1 is missing"
DIFFERS = TableCheck("public.d", True, Verdict.DIFFERS, (LOST,), n_rows=24, n_chunks=3, n_summed=2)
BARE = TableCheck("public.b", False, Verdict.NOT_LOOKED_AT, why_not="the pipeline keeps no provenance", lacks_provenance=True)
SUMS = TableCheck("public.s", False, Verdict.NOT_LOOKED_AT, why_not="its rows are sums of many chunks")


def shown(*tables: TableCheck, width: int = 200, differs: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    checked = (LINES, ROWS) if any(table.checked for table in tables) else (LINES,)
    differs = differs or {}
    findings = tuple(finding for found in differs.values() for finding in found)
    return "\n".join(
        render(part, width=width, color=False) for part in verified_drawing(Verification(3, findings, checked, (), tables, differs))
    ).splitlines()


def test_the_headline_says_which_tables_were_not_looked_at_and_the_last_line_what_to_do() -> None:
    lines = shown(BARE, SUMS)
    assert lines[0] == "run 3: verified by the ledger; 2 tables were not looked at"
    assert lines[-1] == "to have rows looked at: declare their tables with provenance=True (8 bytes a row) before they are loaded"
    assert shown(BARE)[0] == "run 3: verified by the ledger; 1 table was not looked at"
    assert shown(*[BARE] * 5)[0] in DOCUMENT.read_text()
    assert shown(STANDS, BARE)[0] == "run 3: verified by the ledger; 1 of 2 tables was not looked at"
    assert "provenance" not in "\n".join(shown(STANDS, SUMS))
    assert [shown(STANDS)[0], shown()[0]] == ["run 3: verified"] * 2


def test_a_check_or_a_table_with_findings_is_not_ok_and_has_them_below() -> None:
    lines = shown(STANDS, DIFFERS, BARE, differs={LINES: ("load 4: 1 chunk is dead",), ROWS: (LOST,)})
    assert lines[:7] == [
        "run 3: differs; 1 of 3 tables was not looked at",
        f"  differs  {LINES}",
        "           load 4: 1 chunk is dead",
        f"  differs  {ROWS}",
        "  ok       table public.a: 25 rows of 3 chunks counted, values of 3 compared",
        "  differs  table public.d: 24 rows of 3 chunks counted, values of 2 compared",
        f"           {LOST}",
    ]


def test_what_wraps_goes_on_below_its_first_word() -> None:
    wrapped = shown(DIFFERS, width=60, differs={ROWS: (LOST,)})
    assert len(wrapped) > 5
    assert all(line.startswith(("run 3: ", "  ok       ", "  differs  ", " " * 11)) for line in wrapped)
