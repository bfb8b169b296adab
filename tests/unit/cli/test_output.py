"""What is printed: JSON by the contract, figures for people, tables that are not cut where nobody looks."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.database import distinct, is_number
from protheon_dask.cli.load import for_pasting
from protheon_dask.cli.output import Shown
from protheon_dask.cli.rejects import REJECT_COLUMNS, reject_card, rejects
from protheon_dask.cli.reports import emit_list
from protheon_dask.cli.summary import summary
from protheon_dask.model import Refusal, RunState, TableCount
from protheon_dask.policy import RejectLimit
from protheon_dask.telemetry.ended import reasons
from tests.unit.cli.pictures import picture_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 11, 21, 18, 19, 25, 5_000, tzinfo=timezone(timedelta(hours=2))), "2026-11-21T16:19:25.005000Z"),
        (datetime(2026, 11, 21, tzinfo=UTC), "2026-11-21T00:00:00Z"),
        (datetime(2026, 11, 21, 1), "2026-11-21T01:00:00"),
        (date(2026, 11, 21), "2026-11-21"),
        (timedelta(seconds=90), 90.0),
        (Decimal("12"), 12),
        (Decimal("12.50"), 12.5),
        (Decimal("1234567890.1234567890"), "1234567890.1234567890"),
        (Decimal("NaN"), "NaN"),
        (float("inf"), "inf"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"raw": b"\xff\x00", "n": None}, {"raw_base64": "/wA=", "n": None}),
        ([(1, True)], [[1, True]]),
    ],
)
def test_ledger_values_become_json(value: Any, expected: Any) -> None:
    made = output.to_json(value)
    assert made == expected
    assert json.loads(output.dumps(value)) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.44, "8.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7_500, "2 h 05 min"),
        (97_200, "1 d 3 h"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_sizes_and_counts_read_well() -> None:
    assert [words.size(n) for n in (0, 999, 1_000, 153_200_000, 999_960_000)] == ["0 B", "999 B", "1.0 kB", "153.2 MB", "1.0 GB"]
    assert [words.counted(n, "retry", "retries") for n in (0, 1, 2_000)] == ["0 retries", "1 retry", "2,000 retries"]
    assert [words.rate(r) for r in (0.0, 21.44, 3_210.4)] == ["0.0", "21.4", "3,210"]


def test_nearly_all_is_not_all() -> None:
    assert [words.percent(f) for f in (0.0, 0.999, 1.0)] == ["0 %", "99 %", "100 %"]


def test_a_table_that_nobody_looks_at_is_not_cut() -> None:
    path = "/data/" + "x" * 500
    drawing = output.table([Shown("n", "n", right=True), Shown("path", "path")], [{"n": 1, "path": path}])
    text = output.render(drawing, width=None, color=False)
    assert path in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_table_fits_its_terminal() -> None:
    drawing = output.table([Shown("n", "n", right=True), Shown("path", "path")], [{"n": 1, "path": "/data/" + "x" * 500}])
    assert max(len(line) for line in output.render(drawing, width=60, color=False).splitlines()) <= 60


def test_a_number_is_left_out_rather_than_cut() -> None:
    shown = [
        Shown("n", "n", right=True),
        Shown("lines", "lines", right=True, drop=1),
        Shown("files", "files", right=True, drop=2),
        Shown("path", "path"),
    ]
    rows = [{"n": 1, "lines": 20_000, "files": 12_345, "path": "/data/" + "x" * 50}]
    columns = {width: output.fitting(shown, rows, width) for width in (200, 40, 35, 5)}
    names = {width: None if fit is None else [column.name for column in fit] for width, fit in columns.items()}
    assert names == {
        200: ["n", "lines", "files", "path"],
        40: ["n", "lines", "files", "path"],
        35: ["n", "lines", "path"],
        5: None,
    }
    drawn = output.render(output.Listing(shown, rows), width=35, color=False)
    assert "20000" in drawn
    assert "1 column left out: files; --json has all" in " ".join(drawn.split())


def test_rows_that_no_table_holds_are_blocks_of_names_and_values() -> None:
    shown = [Shown(name, name, right=True) for name in "abcdef"]
    rows = [dict.fromkeys("abcdef", n * 1_000_003) for n in (15_780_144, 15_780_145)]
    drawn = output.render(output.Listing(shown, rows), width=40, color=False)
    assert drawn.splitlines().count(f"f: {15_780_145 * 1_000_003}") == 1
    assert len([line for line in drawn.splitlines() if ": " in line]) == 12
    assert len(output.render(output.Listing(shown, rows), width=None, color=False).splitlines()) == 4


@pytest.mark.parametrize("width", range(20, 90, 3))
def test_a_summary_cuts_no_number(width: int) -> None:
    counts = (TableCount("pgcr.instance_character_weapon", 59_991, 59_991, 0, 0), TableCount("pgcr.instance", 1_234_567, 1_234_567, 0, 0))
    drawn = "\n".join(output.render(part, width=width, color=False) for part in summary(picture_of(rows=counts)))
    assert "59,991" in drawn
    assert "1,234,567" in drawn


def test_a_load_that_skipped_everything_says_so_before_its_numbers() -> None:
    notice = "/data/a.jsonl: loaded already by run 2: skipped"
    skipped = picture_of(files=1, skipped_files=1, own_lines=0, notices=(notice,))
    drawn = "\n".join(output.render(part, width=100, color=False) for part in summary(skipped))
    assert 0 < drawn.index("nothing was loaded: it was loaded by run 2, with these numbers") < drawn.index("8,750 lines")
    lost = [
        f"/data/{name}: counts as loaded, but table public.T 1, into which run 2 put 8,747 rows of it, is gone now: "
        "--again loads it once more"
        for name in "ab"
    ]
    found = "\n".join(output.render(part, width=100, color=True) for part in summary(picture_of(notices=(*lost, notice))))
    assert found.count("\x1b[1m  but table public.T 1 is gone now: load once more with --again\x1b[0m") == 1
    some = "\n".join(output.render(part, width=100, color=False) for part in summary(picture_of(files=2, skipped_files=1)))
    assert "nothing was loaded" not in some


@pytest.mark.parametrize(
    ("own_lines", "words"), [(0, "all of it was loaded by other runs"), (8_000, "750 lines of it loaded by other runs"), (8_750, None)]
)
def test_a_summary_says_which_lines_other_runs_of_the_same_files_loaded(own_lines: int, words: str | None) -> None:
    drawn = "\n".join(output.render(part, width=200, color=False) for part in summary(picture_of(own_lines=own_lines)))
    assert "nothing to load" not in drawn
    assert ("other runs" not in drawn) if words is None else (words in drawn)


@pytest.mark.parametrize("state", [RunState.CANCELLED, RunState.PAUSED, RunState.INCOMPLETE])
def test_a_run_whose_files_another_went_on_with_says_so_and_no_more_how_to_go_on(state: RunState) -> None:
    old = picture_of(state=state, reason="interrupted: type the same again to go on")
    before, after = (
        "\n".join(output.render(part, width=100, color=False) for part in summary(run)) for run in (old, replace(old, gone_on_by=(25,)))
    )
    assert f"{state}: interrupted: type the same again to go on" in before
    assert f"{state}: its files were gone on with by run 25\n" in after
    assert "to go on" not in after


def test_a_skipped_file_whose_lines_are_refused_names_the_command_that_loads_them() -> None:
    told = "/a.jsonl: still refused of its lines: 330; once their cause is mended, this loads them: "
    notice = f"{told}protheon rejects replay 2 --pipeline PIPELINE"
    skipped = picture_of(files=1, skipped_files=1, own_lines=0, notices=("/a.jsonl: loaded already by run 2: skipped", notice))
    drawn = "\n".join(output.render(part, width=100, color=False) for part in summary(skipped, " --into x", "--pipeline 'o s.py:o'"))
    assert "see: protheon rejects replay 2 --pipeline 'o s.py:o' --into x\n" in f"{drawn}\n"
    unknown = "\n".join(output.render(part, width=100, color=False) for part in summary(skipped))
    assert "see: protheon rejects replay 2 --pipeline PIPELINE\n" in f"{unknown}\n"
    assert for_pasting(notice, "--pipeline orders.py:o", " --into x").endswith(" replay 2 --pipeline orders.py:o --into x")


def test_a_reject_names_its_file_and_says_table_and_state_once() -> None:
    row = {"id": 7, "path": "/data/a.jsonl", "load_id": 3, "run_id": 2, "line": 1_234, "byte_offset": 9, "part": None, "replayed_by": None}
    row |= {"sqlstate": "23514", "table_name": "shop.t", "raw": b"{}", "raw_bytes": 2}
    said = reject_card({**row, "reason": "new row for shop.t violates a check (SQLSTATE 23514)"})
    text = "".join(output.render(part, width=200, color=False) for part in said)
    assert "reject 7: line 1,234 of /data/a.jsonl, byte 9 (load 3 of run 2)" in text
    assert (text.count("23514"), text.count("shop.t")) == (1, 1)
    unsaid = reject_card({**row, "reason": "no room in shop.tables for 235140"})
    assert "; table shop.t; SQLSTATE 23514" in "".join(output.render(part, width=200, color=False) for part in unsaid)


def test_a_run_that_ended_over_its_reject_limit_names_the_load_that_bears_more() -> None:
    over = picture_of(state=RunState.INCOMPLETE, reason="1 chunk is dead; over the reject limit of 50 %: 60 of 100 lines are rejected")
    hint = "  to bear that many: protheon load /data/reports.jsonl.zst --pipeline pgcr --into x --reject-limit N|P%"
    for picture, is_told in ((over, True), (replace(over, reason="1 chunk is dead"), False)):
        drawn = [output.render(part, width=200, color=False).rstrip() for part in summary(picture, " --into x", "--pipeline pgcr")]
        assert (hint in drawn) is is_told


def test_the_list_of_rejects_has_their_sqlstate_where_there_is_one() -> None:
    row = {"id": 7, "load_id": 3, "line": 2, "part": None, "reason": "no", "sqlstate": "23514", "table_name": None, "replayed_by": None}
    for sqlstate, heading in (("23514", ["SQLSTATE"]), (None, [])):
        rows = [{**row, "sqlstate": sqlstate}]
        drawn = output.render(output.Listing(output.filled(REJECT_COLUMNS, rows), rows), width=100, color=False)
        assert [word for word in drawn.split() if word in ("SQLSTATE", "23514")] == [*heading, *filter(None, [sqlstate])]
    listing = rejects.commands["list"]
    assert next(option.default for option in listing.params if option.name == "limit") == 20


@pytest.mark.parametrize("width", range(60, 90))
def test_a_percent_sign_stays_with_its_number(width: int) -> None:
    paused = picture_of(state=RunState.PAUSED, reason=f"reject limit of {RejectLimit(fraction=0.5)}: 6,000 of 10,000 lines")
    drawn = output.render(summary(paused)[0], width=width, color=False)
    assert not [line for line in drawn.splitlines() if line.strip().startswith("%")]


def refusal(n: int, line_no: int = 2, reason: str = "column 'price' (integer) cannot take 'a'", **more: Any) -> Refusal:
    of = {"path": "/data/orders.jsonl", "part": None, "sqlstate": "22P02", "table": "public.t", "n_looked": 8_750, **more}
    return Refusal(n=n, line_no=line_no, reason=reason, **of)


def test_a_summary_tells_the_commonest_reasons_for_which_lines_are_refused() -> None:
    found = (refusal(2_640), refusal(30, reason="x" * 300), refusal(9, line_no=1_234, part="b"), refusal(1))
    drawn = [output.render(part, width=300, color=False) for part in summary(picture_of(refusals=found))]
    told = [" ".join(text.split()) for text in drawn if " x " in text]
    assert told == [
        "2,640 x column 'price' (integer) cannot take 'a'; first at line 2 of orders.jsonl",
        f"30 x {'x' * 200} ..; first at line 2 of orders.jsonl",
        "9 x column 'price' (integer) cannot take 'a' (part b); first at line 1,234 of orders.jsonl",
        "6,071 x for other reasons",
    ]
    assert reasons((refusal(8_750),), 10) == ["8,750 x column 'price' (integer) cannot take 'a'; first at line 2 of orders.jsonl"]
    assert reasons((), 10) == []


@pytest.mark.parametrize(
    ("n", "n_looked", "lines", "is_told"),
    [
        (4_374, 8_750, 8_750, False),
        (4_375, 8_750, 8_750, True),
        (1, 1, 3_001, False),  # one line that was cut off
        (120, 120, 20_000, False),  # all that was refused, of a file that was loaded
        (90_000, 100_000, 1_000_000, True),  # as many as are looked at, of 900,000 that were refused
        (50_000, 100_000, 1_000_000, False),
    ],
)
def test_a_file_of_another_kind_is_called_that(n: int, n_looked: int, lines: int, is_told: bool) -> None:
    found = (
        refusal(n - 1, way_on="not JSON", n_looked=n_looked),
        refusal(1, line_no=1, way_on="this looks like columns with commas", n_looked=n_looked),
    )
    picture = picture_of(refusals=found, lines=lines, rejected=900_000 if lines > n_looked >= 100_000 else n_looked)
    drawn = "\n".join(output.render(part, width=300, color=False) for part in summary(picture))
    assert ("most lines are no JSON: this looks like columns with commas" in drawn) is is_told


@pytest.mark.parametrize(("n_read", "more"), [(2, False), (3, False), (4, True)])
def test_a_list_says_that_there_is_more_only_when_there_is(n_read: int, more: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"n": n} for n in range(1, n_read + 1)]
    emit_list(rows, [Shown("n", "n")], "nothing", as_json=False, limit=3)
    out, err = capsys.readouterr()
    assert out.split()[-1] == str(min(n_read, 3))
    assert ("the first 3; --limit shows more" in err) is more
    emit_list(rows, [Shown("n", "n")], "nothing", as_json=True, limit=3)
    assert len(json.loads(capsys.readouterr().out)) == min(n_read, 3)


def test_a_query_without_a_row_has_its_headings() -> None:
    assert output.render(output.Listing([Shown("n", "n"), Shown("m", "m")], []), width=80, color=False).split()[:2] == ["n", "m"]


def test_a_column_without_a_word_is_left_out() -> None:
    shown = [Shown("n", "n"), Shown("message", "message")]
    assert [column.name for column in output.filled(shown, [{"n": 1, "message": None}])] == ["n"]


def test_markup_in_data_is_data() -> None:
    drawing = output.table([Shown("reason", "reason")], [{"reason": "[bold]no[/bold] such [key]"}])
    assert "[bold]no[/bold] such [key]" in output.render(drawing, width=None, color=False)


def test_columns_of_one_name_stay_apart_in_json() -> None:
    assert distinct(["count", "count", "x", "count"]) == ["count", "count_2", "x", "count_3"]


def test_a_column_is_of_numbers_if_all_its_values_are() -> None:
    rows: list[dict[str, object]] = [{"a": 1, "b": "x", "c": None, "d": True}, {"a": Decimal("1.5"), "b": 2, "c": None, "d": False}]
    assert [is_number(rows, key) for key in "abcd"] == [True, False, False, False]
