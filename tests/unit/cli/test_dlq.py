"""Pictures of dead letters: a card, a list with its reasons, and the words around them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from protheon_dask.cli.dlq import (
    LETTER_COLUMNS,
    letter_card,
    pipeline_option,
    reasons,
    stages_text,
    tell_closed,
    tell_log,
    tell_next,
    tell_none,
)
from protheon_dask.cli.main import main
from protheon_dask.cli.output import render
from protheon_dask.cli.reports import emit_list
from protheon_dask.cli.summary import mended_hint, summary
from protheon_dask.model import STAGES, Death, RunState
from tests.unit.cli.pictures import picture_of

DIED_AT = datetime(2026, 11, 21, 18, 0, 9, tzinfo=UTC)
ATTEMPT = {
    "task_id": 12,
    "attempt_no": 1,
    "host": "gaming-pc",
    "worker": "gaming-pc-0",
    "started_at": DIED_AT - timedelta(seconds=8.4),
    "ended_at": DIED_AT,
    "outcome": "failed",
    "cost": "failure",
    "given_back": False,
    "error_class": "MemoryError",
    "message": "no room",
    **{f"{stage}_s": 0.0 for stage in STAGES},
    "fetch_s": 0.2,
    "copy_s": 1.41,
    "commit_s": 0.04,
}
LETTER: dict[str, Any] = {
    "task_id": 12,
    "attempt_no": 2,
    "reason": "failed 2 times",
    "died_at": DIED_AT,
    "replayed_at": None,
    "purged_at": None,
    "status": "open",
    "handler": "ingest",
    "load_id": 2,
    "chunk_no": 3,
    "first_line": 2_001,
    "n_lines": 1_000,
    "byte_offset": 8_890,
    "raw_bytes": 5_000,
    "path": "/data/orders.jsonl.zst",
    "pipeline_name": "orders",
    "pipeline_reference": None,
    "error_class": "MemoryError",
    "message": "no room",
    "sqlstate": "53200",
    "traceback": 'Traceback (most recent call last):\n  File "orders.py", line 3, in [orders]\nMemoryError: no room\n',
    "attempts": [
        {**ATTEMPT, "outcome": "crashed", "cost": "loss", "given_back": True, "error_class": None, "message": None},
        {**ATTEMPT, "attempt_no": 2},
    ],
}


def drawn(row: dict[str, Any], width: int = 140) -> list[str]:
    text = "\n".join(render(part, width=width, color=False) for part in letter_card(row))
    return [line for line in text.splitlines() if line.strip(" ─")]


def test_a_card_says_what_why_and_how_each_attempt_went() -> None:
    assert drawn(LETTER) == [
        "task 12: chunk 3 of load 2, lines 2,001 to 3,000 of /data/orders.jsonl.zst, bytes 8,890 to 13,890",
        "  dead 2026-11-21 18:00:09Z: failed 2 times",
        "  MemoryError: no room (SQLSTATE 53200)",
        "  try   host        worker        started                 time   outcome   cost         stages                    message",
        "    1   gaming-pc   gaming-pc-0   2026-11-21 18:00:00Z   8.4 s   crashed   given back   fetch 0.2 s, copy 1.4 s",
        "    2   gaming-pc   gaming-pc-0   2026-11-21 18:00:00Z   8.4 s   failed    failure      fetch 0.2 s, copy 1.4 s   "
        "MemoryError: no room",
        "  Traceback (most recent call last):",
        '    File "orders.py", line 3, in [orders]',
        "  MemoryError: no room",
    ]


def test_a_card_of_a_task_without_a_run_names_its_function_and_a_closed_one_says_so() -> None:
    queued = {**LETTER, "load_id": None, "chunk_no": None, "handler": "jobs:mail", "status": "purged", "purged_at": DIED_AT}
    assert drawn(queued)[:2] == ["task 12: jobs:mail", "  dead 2026-11-21 18:00:09Z: failed 2 times; purged 2026-11-21 18:00:09Z"]
    assert "; replayed 2026-11-21 18:00:09Z" in drawn({**LETTER, "status": "replayed", "replayed_at": DIED_AT})[1]


def test_what_does_not_fit_is_left_out_by_name() -> None:
    assert any("left out: " in line and "stages" in line for line in drawn(LETTER, width=80))


def test_a_list_shows_the_status_of_closed_letters_alone(capsys: pytest.CaptureFixture[str]) -> None:
    emit_list([LETTER], LETTER_COLUMNS, "no dead letters", as_json=False)
    assert "status" not in capsys.readouterr().out
    emit_list([LETTER, {**LETTER, "status": "replayed"}], LETTER_COLUMNS, "no dead letters", as_json=False)
    out = capsys.readouterr().out
    assert ("status" in out, "replayed" in out, "open" in out, "handler" in out) == (True, True, False, False)


def test_reasons_are_counted_the_commonest_first() -> None:
    counted: list[dict[str, Any]] = [
        {"status": "open", "reason": "failed 5 times", "error_class": "MemoryError", "n": 2},
        {"status": "purged", "reason": "failed 5 times", "error_class": "MemoryError", "n": 5_000},
        {"status": "open", "reason": "crashed or stalled its worker 3 times", "error_class": None, "n": 3},
        *({"status": "open", "reason": f"odd {n}", "error_class": None, "n": 1} for n in range(10)),
    ]
    told = reasons(counted, everything=False)
    assert told[:2] == ["3 x crashed or stalled its worker 3 times", "2 x failed 5 times: MemoryError"]
    assert told[-1] == "2 x for other reasons"
    assert reasons(counted, everything=True)[0] == "5,002 x failed 5 times: MemoryError"


def test_the_words_around_a_list_name_what_is_left_out_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    tell_closed([{"status": "replayed", "n": 4}, {"status": "purged", "n": 1}], everything=False)
    tell_next([LETTER, {**LETTER, "task_id": 13}], 3, " --into embedded")
    tell_next([LETTER], 3, "")
    tell_next([{**LETTER, "load_id": None, "path": None}], None, "")
    tell_next([{**LETTER, "status": "purged"}], 3, "")
    tell_closed([{"status": "replayed", "n": 4}], everything=True)
    assert capsys.readouterr().err.splitlines() == [
        "left out: 4 replayed, 1 purged (--all shows them)",
        "with mended code: protheon load /data/orders.jsonl.zst --pipeline FILE.py:orders --into embedded",
        "once a cause outside of the code is mended: protheon dlq replay 3 --into embedded",
        "with mended code: protheon load /data/orders.jsonl.zst --pipeline FILE.py:orders",
        "once a cause outside of the code is mended: protheon dlq replay --task 12",
        "once the cause is mended: protheon dlq replay --task 12",
    ]


@pytest.mark.parametrize(
    ("named", "option"),
    [
        ([("pgcr", "pgcr")], "--pipeline pgcr"),
        ([("shop.pipelines:orders", "orders"), ("shop.pipelines:orders", "orders")], "--pipeline shop.pipelines:orders"),
        ([(None, "two words")], "--pipeline 'FILE.py:two words'"),
        ([("pgcr", "pgcr"), (None, "orders")], "--pipeline PIPELINE"),
        ([("jsonl", "jsonl")], "--pipeline PIPELINE"),  # it may have been given a table
    ],
)
def test_a_hint_names_the_pipeline_as_far_as_the_ledger_knows_it(named: list[tuple[str | None, str]], option: str) -> None:
    assert pipeline_option([{"pipeline_reference": reference, "pipeline_name": name} for reference, name in named]) == option


@pytest.mark.parametrize(
    ("paths", "command"),
    [
        (["/a b.jsonl", "/a b.jsonl"], "protheon load '/a b.jsonl' --pipeline p.py:p --into x"),
        (["/a.jsonl", "/b.jsonl"], "protheon load PATH.. --pipeline p.py:p --into x"),
        (["rejects of run 7"], "protheon rejects replay 7 --pipeline p.py:p --into x"),
    ],
)
def test_the_command_that_takes_dead_chunks_up_under_mended_code(paths: list[str], command: str) -> None:
    assert mended_hint(paths, " --into x", "--pipeline p.py:p") == command


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": RunState.SUCCEEDED}, "no dead letter of run 3 is open; it is succeeded"),
        ({"state": RunState.CANCELLED}, "it is cancelled: type its `protheon load` again, which goes on with its files"),
        (
            {"state": RunState.INCOMPLETE, "chunks_dead": 2},
            "purged: 2, which `protheon dlq replay --task N --into embedded` takes up again",
        ),
    ],
)
def test_nothing_to_replay_says_what_can_be_done_all_the_same(
    changes: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_none(picture_of(**changes), " --into embedded", as_json=False)
    assert told in capsys.readouterr().err


def test_a_summary_names_the_letters_and_what_to_do_about_them() -> None:
    deaths = (Death(4, "failed 5 times", "ValueError", f"no\n{'x' * 200}"), Death(1, "crashed or stalled its worker 3 times", None, None))
    more = (Death(1, "failed 5 times", "KeyError", "'a'"), Death(2, "lost 20 times", None, None))
    ended = picture_of(state=RunState.INCOMPLETE, rejected=0, chunks_dead=9, dead_letters=8, deaths=deaths + more)
    lines = "\n".join(render(part, width=200, color=False) for part in summary(ended)).splitlines()
    assert lines[-8:] == [
        f"  4 chunks failed 5 times: ValueError: no {'x' * 105} ..",
        "  1 chunk crashed or stalled its worker 3 times",
        "  1 chunk failed 5 times: KeyError: 'a'",
        "  2 chunks for other reasons",
        "  see: protheon dlq show 3",
        "  see: protheon dlq list 3 --all",
        "  with mended code: protheon load /data/reports.jsonl.zst --pipeline PIPELINE",
        "  once a cause outside of the code is mended: protheon dlq replay 3",
    ]


def test_where_a_worker_process_died_the_log_that_knows_how_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crashed = {**LETTER, "attempts": [{**ATTEMPT, "outcome": "crashed", "error_class": "WorkerDied", "message": "the worker process died"}]}
    log = tmp_path / "workers.log"
    tell_log([LETTER, crashed], log)
    log.write_text("Worker process 12 exited with status 9")
    tell_log([LETTER], log)
    assert capsys.readouterr().err == ""
    tell_log([LETTER, crashed], log)
    assert capsys.readouterr().err.strip().endswith(f"of the latest cluster on this machine: {log}")


def test_stages_are_those_that_took_time() -> None:
    assert stages_text(ATTEMPT) == "fetch 0.2 s, copy 1.4 s"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["list", "3", "--queue"], "--queue is for tasks without a run"),
        (["show", "3", "--queue"], "--queue is for tasks without a run"),
        (["replay", "3", "--task", "12"], "a task is of one run already"),
        (["purge", "3", "--task", "12"], "a task is of one run already"),
        (["replay", "--task", "0"], "0 is not in the range"),
    ],
)
def test_two_ways_of_naming_letters_at_once_are_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", *arguments]) == 2
    assert told in capsys.readouterr().err
