"""Dead letters where no master runs, as on a machine where people type one command after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from protheon_dask.run import api
from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.shell import Shell, shell_over

pytestmark = pytest.mark.slow  # three clusters are started


def files(shell: Shell) -> list[int]:
    """First lines of the chunks whose bytes are in the workspace."""
    return sorted(int(path.name.split(".")[0]) for path in shell.home.glob("workspace/*/1/*.zst"))


@pytest.fixture
def shell(database: str, tmp_path: Path) -> Iterator[Shell]:
    with shell_over(tmp_path / "home", database, PROTHEON_CHUNK_LINES="100", PROTHEON_DEAD_AT_FAILURES="1") as made:
        yield made


def test_with_no_master_purge_deletes_at_once_and_replay_starts_a_cluster(shell: Shell, tmp_path: Path, gate: Gate) -> None:
    source = write_numbers(tmp_path / "n.txt", 1_000)
    body = f"if n // 100 in (2, 5, 7) and not os.path.exists({str(gate.path)!r}): raise MemoryError('no room for it')"
    pipeline = write_pipeline(tmp_path, "solo", body)
    code, out, err = shell.run("load", source, "--pipeline", pipeline, "--workers", 1)
    assert code == 1, out + err
    assert "3 chunks are dead: protheon dlq list 1" in out
    assert f"with mended code: protheon load {source} --pipeline {pipeline}" in out
    assert "once a cause outside of the code is mended: protheon dlq replay 1" in out
    assert files(shell) == [201, 501, 701]

    [third, sixth, eighth] = [row["task_id"] for row in reversed(api.list_dead_letters(shell.url, 1))]
    code, out, err = shell.run("dlq", "purge", "--task", third)
    assert (code, "add --yes" in err) == (2, True)
    assert [shell.run("dlq", "purge", "--task", third, "--yes")[:2] for _ in range(2)] == [
        (0, "1 dead letter purged\n"),
        (0, "nothing to purge: no letter was open\n"),
    ]
    assert len(files(shell)) == 2

    gate.open()
    code, out, err = shell.run("dlq", "replay", "--workers", 1)
    assert (code, "1 dead chunk was purged: protheon dlq list 1 --all" in out) == (1, True), out + err
    stands = {row["task_id"]: row["status"] for row in api.list_dead_letters(shell.url, 1, everything=True)}
    assert stands == {third: "purged", sixth: "replayed", eighth: "replayed"}
    assert ask(shell.url, "SELECT count(*) FROM public.solo") == [(900,)]
    assert api.verify_run(shell.url, 1).findings == ("load 1: 1 chunk is dead",)
    code, out, err = shell.run("dlq", "replay", "--task", third, "--workers", 1, "--json")
    assert (code, json.loads(out)["runs"][0]["state"]) == (0, "succeeded"), err
    assert numbers(shell.url, "solo") == list(range(1_000))
    assert api.verify_run(shell.url, 1).findings == ()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_replay_whose_command_is_killed_says_what_goes_on_with_it_when_it_is_typed_again(
    shell: Shell, tmp_path: Path, gate: Gate
) -> None:
    """One of three chunks is loaded, one waits in its middle: the kill takes the cluster with it, and the run is open."""
    source = write_numbers(tmp_path / "n.txt", 1_000)
    body = f"""if n // 100 in (2, 5, 7):
    if not os.path.exists({str(gate.path)!r}): raise MemoryError('no room for it')
    if n // 100 == 5: open({str(tmp_path / "met")!r}, 'w').close()
    while n // 100 == 5 and not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.02)"""
    typed = ("load", source, "--pipeline", write_pipeline(tmp_path, "taken", body), "--workers", 1)
    assert shell.run(*typed)[0] == 1
    gate.open()
    killed = shell.type("dlq", "replay", "--workers", 1)
    wait_until((tmp_path / "met").exists)
    for process in [killed, *psutil.Process(killed.pid).children(recursive=True)]:  # the broker, too: it cannot say that it ends
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    killed.communicate()
    (tmp_path / "go").touch()
    code, out, err = shell.run("dlq", "replay", "--workers", 1)
    assert (code, "it is cancelled: type its `protheon load` again, which goes on with its files" in err) == (1, True), out + err
    code, out, err = shell.run(*typed)
    assert (code, "goes on: 8 of 10 chunks are loaded" in err) == (0, True), out + err
    assert numbers(shell.url, "taken") == list(range(1_000))
    assert api.verify_run(shell.url, 1).findings == api.verify_run(shell.url, 2).findings == ()
