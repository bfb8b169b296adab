"""The grammar: no verb is list, every command shows an example, the options are those of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from protheon_dask.cli.main import main, protheon
from protheon_dask.cli.output import render
from protheon_dask.cli.rejects import reject_card
from protheon_dask.cli.summary import summary
from protheon_dask.cli.verbs import NounGroup, flag_of
from protheon_dask.config import Settings
from protheon_dask.model import RunState
from protheon_dask.run.settings import home_of
from tests.unit.cli.pictures import picture_of


def every_command(group: click.Group = protheon, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*names, name))


@pytest.mark.parametrize(("names", "command"), list(every_command()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_every_command_has_a_help_with_an_example(names: tuple[str, ...], command: click.Command) -> None:
    text = command.help or ""
    assert "Example:" in text
    assert f"protheon {names[0]}" in text


def test_the_help_of_verify_says_which_run_it_takes() -> None:
    runs = protheon.commands["runs"]
    assert isinstance(runs, click.Group)
    assert "Left out, RUN is the latest." in (runs.commands["verify"].help or "")


def test_the_commands_and_verbs_are_those_of_the_contract() -> None:
    found = {names for names, command in every_command() if not isinstance(command, click.Group)}
    assert found == {
        *(
            (name,)
            for name in (
                "load",
                "preview",
                "plan",
                "doctor",
                "lab",
                "demo",
                "sample",
                "scaffold",
                "undo",
                "sql",
                "config",
                "master",
                "worker",
            )
        ),
        *(("runs", verb) for verb in ("list", "show", "watch", "verify", "report", "pause", "resume", "cancel")),
        *((noun, "list") for noun in ("files", "chunks", "attempts", "rejects", "dlq")),
        *((noun, "show") for noun in ("rejects", "dlq")),
        *(("rejects", verb) for verb in ("export", "replay")),
        *(("dlq", verb) for verb in ("replay", "purge")),
        *(("db", verb) for verb in ("url", "serve", "migrate", "status")),
        *(("cluster", verb) for verb in ("init", "invite", "hosts", "remove")),
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "load",
            "--pipeline --table --into --workers --chunk-lines --again --replace --checksum --reject-limit --detach --quiet --json",
        ),
        ("preview", "--pipeline --table -n --json"),
        ("demo", "--lines --workers --json"),
        ("master", "--bind --into --workers --invite --insecure"),
        ("lab", "--dir --port --no-browser --workers --into"),
        ("sample", "--lines --seed --shape --bad --json"),
        ("scaffold", "--table --name --key --lines"),
    ],
)
def test_options_of_the_contract_are_there(name: str, options: str) -> None:
    have = {option for parameter in protheon.commands[name].params for option in parameter.opts}
    assert set(options.split()) <= have


@pytest.mark.parametrize(
    ("argv", "verb", "rest"),
    [
        ([], "list", []),
        (["7"], "list", ["7"]),
        (["--json"], "list", ["--json"]),
        (["list", "7"], "list", ["7"]),
        (["show", "7", "--json"], "show", ["7", "--json"]),
    ],
)
def test_no_verb_is_list(argv: list[str], verb: str, rest: list[str]) -> None:
    group = protheon.commands["rejects"]
    assert isinstance(group, NounGroup)
    context = click.Context(group)
    group.parse_args(context, list(argv))
    assert (context._protected_args, context.args) == ([verb], rest)


def test_no_help_says_that_a_database_is_only_read() -> None:
    """verbs.database_option is also of commands that write."""
    assert not [names for names, command in every_command() if "PostgreSQL to read" in str([p.to_info_dict() for p in command.params])]


def test_help_promises_nothing_that_this_version_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "machine you have" not in capsys.readouterr().out


def test_a_number_after_runs_shows_that_run() -> None:
    group = protheon.commands["runs"]
    assert isinstance(group, NounGroup)
    context = click.Context(group)
    group.parse_args(context, ["7", "--json"])
    assert (context._protected_args, context.args) == (["show"], ["7", "--json"])


def test_config_names_value_origin_and_meaning_and_masks_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PROTHEON_DATABASE_URL", "postgresql://ann:secret@db/reports")
    settings = tmp_path / "protheon.toml"
    settings.write_text("batch_lines = 500\n")
    assert main(["--config", str(settings), "config", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)}
    assert err == ""
    assert rows["database_url"]["value"] == "postgresql://ann:***@db/reports"
    assert rows["database_url"]["origin"] == "PROTHEON_DATABASE_URL"
    assert (rows["batch_lines"]["value"], rows["batch_lines"]["origin"]) == (500, "file")
    assert rows["lease_s"] == {"name": "lease_s", "value": 60.0, "origin": "default", "meaning": rows["lease_s"]["meaning"]}
    assert (rows["config"]["value"], rows["config"]["origin"]) == (str(settings), "flag")
    assert main(["config"]) == 0
    assert "secret" not in capsys.readouterr().out


def test_config_says_where_home_and_the_settings_file_are_and_whether_it_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda _: tmp_path)
    monkeypatch.delenv("PROTHEON_CONFIG", raising=False)
    monkeypatch.delenv("PROTHEON_HOME", raising=False)
    for is_there in (False, True):
        assert main(["config", "--json"]) == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["config"]["value"] == str(tmp_path / "config.toml")
        assert ("there is none" in rows["config"]["meaning"]) is not is_there
        assert (rows["home"]["value"], rows["home"]["origin"]) == (str(home_of(Settings())), "default")
        (tmp_path / "config.toml").touch()


def test_sample_tells_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.jsonl"
    assert main(["sample", str(out), "--lines", "20", "--bad", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lines"] == 20
    assert told["raw_bytes"] == told["stored_bytes"] == out.stat().st_size
    assert len(told["bad"]) == 2
    assert out.read_bytes().count(b"\n") == 20
    assert main(["sample", str(out), "--lines", "20"]) == 0
    assert "20 lines, 0 of them bad" in capsys.readouterr().out


def test_a_reject_is_shown_with_where_why_and_how_its_line_begins() -> None:
    row = {
        "id": 7,
        "path": "/data/a.zst",
        "load_id": 2,
        "run_id": 1,
        "line": 1_667,
        "byte_offset": 11_000,
        "part": None,
        "reason": "broken JSON",
        "sqlstate": "22P02",
        "table_name": "pgcr.instance",
        "raw": b"{[bold]\xff\0",
        "raw_bytes": 5_000,
        "replayed_by": 9,
    }
    text = "\n".join(render(part, width=100, color=False) for part in reject_card(row))
    assert "reject 7: line 1,667 of /data/a.zst, byte 11,000 (load 2 of run 1)" in text
    assert "broken JSON; table pgcr.instance; SQLSTATE 22P02" in text
    assert "{[bold]\\xff\\x00 .. 4,991 more bytes" in text


@pytest.mark.parametrize(
    ("into", "flag"),
    [
        (None, ""),
        ("embedded", " --into embedded"),
        ("postgresql://db/reports", " --into postgresql://db/reports"),
        ("postgresql://ann:se@cret@db:5432/reports", " --into postgresql://ann@db:5432/reports"),
        ("postgresql://db/r?password=secret&user=ann", " --into 'postgresql://db/r?user=ann'"),
        ("postgresql://db/r?user=ann&password=secret", " --into 'postgresql://db/r?user=ann'"),
        ("postgresql://db/r?password=secret", " --into postgresql://db/r"),
        ("host=db password='s e\\'c' user=ann", " --into 'host=db user=ann'"),
        ("password=secret dbname=r", " --into dbname=r"),
    ],
)
def test_a_hint_names_the_database_of_a_flag_and_never_its_password(into: str | None, flag: str) -> None:
    assert flag_of(into) == flag


def test_the_hints_of_a_summary_mean_the_same_database() -> None:
    ended = picture_of(state=RunState.INCOMPLETE, rejected=2, dead_letters=1)
    drawn = "\n".join(render(part, width=100, color=False) for part in summary(ended, flag_of("postgresql://ann:secret@db/r")))
    assert "see: protheon rejects show 3 --into postgresql://ann@db/r" in drawn
    assert "see: protheon dlq show 3 --into postgresql://ann@db/r" in drawn
    assert "secret" not in drawn
