"""Each error ends a command with the code of the one who must act, and with one line."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from protheon_dask.cli import exits
from protheon_dask.cli.main import main
from protheon_dask.errors import (
    BrokerUnavailable,
    ConfigError,
    InvariantError,
    LeadershipLost,
    LedgerUnavailable,
    MissingSetting,
    NotFound,
    SourceDamaged,
)
from protheon_dask.model import RunState
from protheon_dask.run.api import UndonePlan

CODES: list[tuple[BaseException, int]] = [
    (ConfigError("the table is bad"), 2),
    (NotFound("no such run"), 2),
    (MissingSetting("install the extra"), 2),
    (click.UsageError("no such option"), 2),
    (FileNotFoundError(2, "No such file or directory", "/x"), 2),
    (SourceDamaged("cut short", 12), 1),
    (LedgerUnavailable("PostgreSQL does not answer"), 75),
    (BrokerUnavailable("no answer"), 75),
    (LeadershipLost(4), 75),
    (InvariantError("rows do not add up"), 70),
    (KeyError("x"), 70),
    (KeyboardInterrupt(), 130),
    (click.Abort(), 130),
]


@pytest.mark.parametrize(
    ("error", "code"), CODES, ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value)
)
def test_each_error_has_the_exit_code_of_who_must_act(error: BaseException, code: int) -> None:
    assert exits.code_of(error) == code
    assert "\n" not in exits.message_of(error)


def test_each_of_several_reasons_has_a_line_of_its_own() -> None:
    plan = UndonePlan((4,), (2,), ("/data/a",), (), {}, ("table a: one\n  reason", "table b: another"), None, None)
    with pytest.raises(ConfigError) as refused:
        plan.refuse()
    assert exits.message_of(refused.value).splitlines() == [
        "load 4 of run 2 (/data/a): cannot be undone:",
        "  - table a: one reason",
        "  - table b: another",
    ]
    with pytest.raises(ConfigError, match=r"^load 4 of run 2 \(/data/a\): cannot be undone: the one$"):
        replace(plan, refusals=("the one",)).refuse()


@pytest.mark.parametrize(("answer", "code", "word"), [(False, 1, "nothing was deleted"), (click.Abort(), 130, "interrupted")])
def test_an_undo_that_is_answered_with_no_deletes_nothing(
    answer: bool | click.Abort, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def confirm(*_: object, **__: object) -> bool:
        if isinstance(answer, click.Abort):
            raise answer
        return answer

    plan = UndonePlan((4,), (2,), ("/data/a",), (), {"public.t": 3}, (), None, None)
    monkeypatch.setattr("protheon_dask.cli.undo.opened", lambda _: nullcontext("postgresql://nowhere"))
    monkeypatch.setattr("protheon_dask.run.api.plan_undo", lambda *_: plan)
    monkeypatch.setattr("protheon_dask.run.api.undo_load", lambda *_: pytest.fail("rows were deleted"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", confirm)
    assert main(["undo", "4"]) == code
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RunState.SUCCEEDED, 0),
        (RunState.RUNNING, 0),
        (RunState.QUEUED, 0),
        (RunState.INCOMPLETE, 1),
        (RunState.CANCELLED, 1),
        (RunState.PAUSED, 1),
    ],
)
def test_each_state_of_a_run_has_its_exit_code(state: RunState, code: int) -> None:
    assert exits.of_state(state) == code


def test_an_interrupted_person_reads_how_to_go_on() -> None:
    assert exits.message_of(KeyboardInterrupt()) == "interrupted; type the same command again to go on"


def test_a_defect_says_that_it_is_one_and_keeps_its_traceback(tmp_path: Path) -> None:
    error = InvariantError("rows do not\nadd up")
    assert exits.message_of(error) == "InvariantError: rows do not add up; this is a defect of Protheon"
    path = exits.keep_details(error, datetime(2026, 11, 21, 18, 0, tzinfo=UTC), tmp_path / "log")
    assert path is not None
    assert path.name == f"defect-20261121T180000-{os.getpid()}.txt"
    assert "InvariantError: rows do not" in path.read_text()


def test_details_go_to_the_temporary_directory_where_the_log_directory_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = exits.keep_details(KeyError("x"), datetime(2026, 11, 21, tzinfo=UTC), tmp_path / "file" / "log")
    assert path is not None
    assert path.read_text().startswith("KeyError")
    path.unlink()


def test_a_defect_on_a_full_disk_is_told_without_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")

    def none_usable() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(exits.tempfile, "gettempdir", none_usable)
    assert exits.keep_details(KeyError("x"), datetime(2026, 11, 21, tzinfo=UTC), tmp_path / "file" / "log") is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["load"], "Missing argument 'PATH..'"),
        (["load", "x.jsonl", "--again", "--replace"], "--again keeps the rows of the old load"),
        (["load", "x", "--detach", "--workers", "2"], "with --detach the master has its own"),
        (["load", "x", "--reject-limit", "lots"], "give a number of lines, such as 1000, or a percentage"),
        (["load", "x", "--chunk-lines", "0"], "neither a number of lines nor auto"),
        (["load", "x", "--workers", "0"], "--workers"),
        (["load", "/no/such/file.jsonl", "--table", "a.b"], "/no/such/file.jsonl: no such file"),
        (["load", "/no/such/file.jsonl", "--pipeline", "nope"], "no pipeline is called 'nope'"),
        (["load", "/no/such/file.jsonl", "--pipeline", "pgcr", "--table", "a.b"], "a table is for jsonl"),
        (["runs", "shwo"], "no verb 'shwo'; there are: cancel, list, pause, report, resume, show, verify, watch"),
        (["runs", "show", "x"], "is not the number of a run"),
        (["rejects", "0"], "is not the number of a run"),
        (["sql", " ; "], "the query is empty"),
        (["sample", "/no/such/directory/x.jsonl", "--lines", "3"], "there is no directory /no/such/directory"),
        (["sample", "x.jsonl", "--lines", "3", "--bad", "4"], "4 bad lines do not fit into 3"),
        (["demo", "--lines", "3"], "--lines"),
        (["--config", "/no/such.toml", "config"], "/no/such.toml"),
        (["nonsense"], "No such command 'nonsense'"),
        (["verify", "--deep"], "No such command 'verify'; did you mean `protheon runs verify`?"),
        (["show", "3"], "did you mean `protheon runs show` or `protheon rejects show` or `protheon dlq show`?"),
    ],
)
def test_wrong_usage_is_two_and_one_line_on_stderr(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("protheon: ")
    assert words in err


def test_settings_that_do_not_fit_are_all_named_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PROTHEON_LEASE_S", "3")
    monkeypatch.setenv("PROTHEON_BATCH_LINES", "-1")
    assert main(["config"]) == 2
    err = capsys.readouterr().err
    assert "lease_s=3 must be at least 3 * renew_s=15" in err
    assert "batch_lines=-1 must" in err


def test_version_and_help_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("protheon 0.")
    assert main(["load", "--help"]) == 0
    assert "Example:" in capsys.readouterr().out
