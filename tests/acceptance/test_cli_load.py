"""``protheon load`` and the reports as a user's script sees them: processes, exit codes, one JSON document on stdout."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
import pytest

from tests.fixtures.postgres import fresh_database

PROTHEON = Path(sys.executable).with_name("protheon")
CONTRACT = {
    *("run", "state", "files", "chunks", "lines", "loaded", "filtered", "rejected", "blank", "rows", "dead_letters", "retries"),
    *("seconds", "lines_per_s", "raw_bytes", "wire_bytes", "skipped_files"),
}
LINES = [b'{"n": %d}' % n for n in range(1, 301)]
BROKEN = {7: b'{"n": 7', 211: b"\xff not JSON"}  # by line number
FILE = b"\n".join(BROKEN.get(n, line) for n, line in enumerate(LINES, start=1)) + b"\n\n"


def environment(home: Path) -> dict[str, str]:
    """This process's environment without a word on any database, and with a home of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL", "NO_COLOR"))}
    return {**kept, "PROTHEON_HOME": str(home)}


@dataclass(frozen=True)
class Shell:
    """Runs the installed command against one database."""

    home: Path
    url: str

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
        environ = {**environment(self.home), "PROTHEON_DATABASE_URL": self.url, **env}
        return subprocess.run([PROTHEON, *arguments], env=environ, capture_output=True, check=False, timeout=100)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


def change(url: str, sql: LiteralString) -> None:
    """What `protheon sql` refuses to do."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql)


@pytest.fixture(scope="module")
def shell(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with fresh_database(postgres_url) as url:
        yield Shell(tmp_path_factory.mktemp("home"), url)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "events.jsonl"
    path.write_bytes(gzip.compress(FILE) + b"what a tape had after it")
    return path


@pytest.fixture(scope="module")
def first(shell: Shell, source: Path) -> subprocess.CompletedProcess[bytes]:
    """The first load of the file, in chunks of 100 lines, with one worker."""
    return shell("load", str(source), "--table", "app.events", "--chunk-lines", "100", "--workers", "1", "--json")


def test_a_load_ends_with_the_object_of_the_contract(first: subprocess.CompletedProcess[bytes]) -> None:
    assert first.returncode == 0, first.stderr.decode()
    told = json.loads(first.stdout)
    assert set(told) == CONTRACT
    expected = {"run": 1, "state": "succeeded", "files": 1, "lines": 301, "loaded": 298, "filtered": 0, "rejected": 2, "blank": 1}
    assert {name: told[name] for name in expected} == expected
    assert told["rows"] == {"app.events": {"inserted": 298, "updated": 0, "ignored": 0}}
    assert (told["chunks"], told["dead_letters"], told["retries"], told["skipped_files"]) == (4, 0, 0, 0)
    assert told["raw_bytes"] == len(FILE)
    assert told["wire_bytes"] > 0
    assert told["seconds"] > 0


def test_progress_that_is_not_on_a_terminal_is_plain_lines_at_once(first: subprocess.CompletedProcess[bytes]) -> None:
    err = first.stderr.decode()
    assert "\x1b" not in err
    assert [line for line in err.splitlines() if line.startswith("run 1; ")]
    assert re.search(r"^Dask's dashboard: http://127\.0\.0\.1:\d+/status; in numbers: http://127\.0\.0\.1:\d+/metrics$", err, re.MULTILINE)


def test_what_was_found_while_the_file_was_read_is_told_at_the_end(first: subprocess.CompletedProcess[bytes]) -> None:
    assert first.stderr.decode().count("after its last gzip member") == 1


@pytest.mark.slow
def test_typing_it_again_loads_nothing_twice_and_says_so(shell: Shell, source: Path, first: subprocess.CompletedProcess[bytes]) -> None:
    again = shell("load", str(source), "--table", "app.events")
    assert (first.returncode, again.returncode) == (0, 0)
    assert "1 file skipped: loaded before" in again.stdout.decode()
    assert "nothing was loaded: it was loaded by run 1, with these numbers" in again.stdout.decode()
    assert "\x1b" not in again.stdout.decode()
    assert shell.json("sql", "select count(*), min(line_no), max(line_no) from app.events") == [{"count": 298, "min": 1, "max": 300}]


@pytest.mark.slow
@pytest.mark.usefixtures("first")
def test_lists_are_arrays_of_objects_with_the_ledgers_names(shell: Shell, source: Path) -> None:
    [file] = shell.json("files", "1")
    assert (file["path"], file["joined"], file["split_state"], file["lines"]) == (str(source), "new", "complete", 301)
    chunks = shell.json("chunks", "list", "1")
    assert [(c["chunk_no"], c["first_line"], c["n_lines"], c["state"]) for c in chunks] == [
        (1, 1, 100, "succeeded"),
        (2, 101, 100, "succeeded"),
        (3, 201, 100, "succeeded"),
        (4, 301, 1, "succeeded"),
    ]
    attempts = shell.json("attempts", "1")
    assert {(a["outcome"], a["attempt_no"]) for a in attempts} == {("succeeded", 1)}
    assert all(a["started_at"].endswith("Z") for a in attempts)
    assert shell.json("dlq") == []
    assert shell.json("runs")[-1]["run"] == 1
    assert shell.json("runs", "show", "1")["state"] == "succeeded"


@pytest.mark.usefixtures("first")
def test_rejects_keep_their_lines_byte_by_byte(shell: Shell) -> None:
    rejects = shell.json("rejects", "1")
    assert {r["line"]: base64.b64decode(r["raw_base64"]) for r in rejects} == BROKEN
    assert all("raw" not in r for r in rejects)
    [one] = shell.json("rejects", "show", "1", "--id", str(rejects[1]["id"]))
    assert one == rejects[1]
    shown = shell("rejects", "show", "1").stdout.decode()
    assert "line 211" in shown
    assert "\\xff not JSON" in shown


@pytest.mark.usefixtures("first")
def test_verify_proves_the_run_and_names_what_differs(shell: Shell) -> None:
    proved = shell.json("runs", "verify", "1")
    assert (proved["run"], proved["verified"], proved["findings"]) == (1, True, [])
    assert proved["checked"]
    change(shell.url, "update protheon.reject set line = line + 1000")  # still as many: nothing to find
    change(shell.url, "create table kept as select * from protheon.reject")
    change(shell.url, "delete from protheon.reject")
    differs = shell("runs", "verify", "1", "--json")
    assert differs.returncode == 1
    assert json.loads(differs.stdout)["findings"]
    change(shell.url, "insert into protheon.reject overriding system value select * from kept")
    change(shell.url, "update protheon.reject set line = line - 1000")
    assert shell("runs", "verify", "1").returncode == 0


@pytest.mark.usefixtures("first")
def test_cancelling_what_has_ended_says_that_it_had(shell: Shell) -> None:
    done = shell("runs", "cancel", "1")
    assert (done.returncode, done.stdout.decode()) == (0, "run 1 had ended already: succeeded; 301 lines stay loaded\n")


@pytest.mark.usefixtures("first")
def test_a_reader_that_has_had_enough_is_no_error(shell: Shell) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [PROTHEON, "attempts", "1", "--json"]
    env = {**environment(shell.home), "PROTHEON_DATABASE_URL": shell.url}
    done = subprocess.run(command, env=env, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of POSIX")
@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(shell: Shell, no_color: str, coloured: bool) -> None:
    ours, theirs = os.openpty()
    env = {**environment(shell.home), "PROTHEON_DATABASE_URL": shell.url, "TERM": "xterm-256color", "NO_COLOR": no_color}
    child = subprocess.Popen([PROTHEON, "runs", "show", "1"], env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux's word for the end of a terminal
        pass
    os.close(ours)
    assert child.wait(60) == 0
    assert b"succeeded" in shown
    assert (b"\x1b[32m" in shown or b"\x1b[1;32m" in shown) is coloured


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["load", "/no/such/file.jsonl"], 2, "/no/such/file.jsonl: no such file"),
        (["load", __file__, "--into", "mysql://x"], 2, "mysql://x is not a PostgreSQL URL"),
        (["load", __file__, "--detach"], 2, "start `protheon master`, or leave it out"),
        (["load", __file__, "--pipeline", "no_such_module:x"], 2, "no module 'no_such_module' here"),
        (["sql", "selec 1"], 2, 'syntax error at or near "selec"'),
        (["sql", "select 1 / 0"], 2, "division by zero"),
        (["sql", "delete from app.events"], 2, "protheon sql only reads: use psql for changes (protheon db url, protheon db serve)"),
        (["runs", "--database", "postgresql://nobody@127.0.0.1:1/x"], 75, "try again later"),
        (["runs", "show", "999"], 2, "no run 999"),
    ],
)
@pytest.mark.usefixtures("first")
def test_failures_end_with_their_code_and_one_line(shell: Shell, arguments: list[str], code: int, words: str) -> None:
    done = shell(*arguments)
    err = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), err
    assert words in err
    assert "Traceback" not in err
    assert "Traceback" in shell(*arguments, PROTHEON_DEBUG="1").stderr.decode()


@pytest.mark.slow
@pytest.mark.usefixtures("first")
def test_a_run_over_its_reject_limit_pauses_with_code_one(shell: Shell, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"not JSON\n" * 20 + b"{}\n")
    done = shell("load", str(bad), "--table", "app.bad", "--reject-limit", "5", "--json", "--workers", "1")
    told = json.loads(done.stdout)
    assert (done.returncode, told["state"]) == (1, "paused"), done.stderr.decode()
    assert "5 lines" in done.stderr.decode()
    assert shell("runs", "cancel", "--json").returncode == 0
    assert shell.json("runs", "show")["state"] == "cancelled"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C as a signal")
@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_load_says_how_to_go_on_leaves_nothing_running_and_goes_on(
    shell: Shell, tmp_path: Path, signum: signal.Signals
) -> None:
    path = tmp_path / "reports.jsonl.zst"
    assert shell("sample", str(path), "--lines", "12000", "--seed", str(int(signum))).returncode == 0
    command = [PROTHEON, "load", str(path), "--pipeline", "pgcr", "--chunk-lines", "500", "--workers", "1"]
    env = {**environment(shell.home), "PROTHEON_DATABASE_URL": shell.url}
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("run "):  # it watches
            break
    started = psutil.Process(child.pid).children(recursive=True)
    assert started
    child.send_signal(signum)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, ""), err
    assert "interrupted; type the same command again to go on" in err
    _, alive = psutil.wait_procs(started, timeout=15)
    assert alive == []
    run = shell.json("runs")[0]
    assert run["state"] == "cancelled"
    told = shell.json(*(str(part) for part in command[1:]))
    assert (told["state"], told["lines"], told["loaded"]) == ("succeeded", 12_000, 12_000)
    assert told["rows"]["pgcr.instance"] == {"inserted": 12_000, "updated": 0, "ignored": 0}
