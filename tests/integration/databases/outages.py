"""A run in the middle of its work while its database is away, and what must be true of it afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from protheon_dask.errors import ConfigError, LedgerUnavailable
from protheon_dask.telemetry.statistics import RunStatistics
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.broker_http import code_of, get, told
from tests.fixtures.cluster import wait_until

N_LINES = 3_000
PROTHEON = Path(sys.executable).with_name("protheon")


def begin(world: World, name: str, gate: Gate, directory: Path) -> int:
    """A run of six chunks of which two are loaded, and the others wait at the gate."""
    run_id = world.submit(write_pipeline(directory, name, gate.body(2, 500)), write_numbers(directory / "n.txt", N_LINES), chunk_lines=500)
    world.wait_chunks_done(run_id.run_id, 2)
    return run_id.run_id


def wait_reason(world: World, run_id: int, words: str) -> str:
    """What the run says that it waits for."""

    def reason() -> str | None:
        try:
            told = world.cluster.client.get(run_id).reason
        except (LedgerUnavailable, ConfigError) as exc:  # the broker cannot ask either, and says the same
            told = f"since now: {exc}"
        return told if told is not None and words in told else None

    told = wait_until(reason)
    assert told.startswith("since ")
    assert "s3cr3t" not in told
    return str(told)


def assert_http_tells(world: World) -> None:
    """While PostgreSQL is away: ill health with its name and since when, and the totals as they were counted last."""
    wait_until(lambda: code_of(world.cluster, "/healthz") == 503)
    [missing] = json.loads(get(world.cluster, "/healthz")[2])["missing"]
    assert re.match(r"since \d\d:\d\d:\d\d UTC: PostgreSQL is away: .+", missing), missing
    assert "s3cr3t" not in missing
    first = told(world.cluster, "/metrics")
    later = wait_until(lambda: (now := told(world.cluster, "/metrics"))["taken_at"] > first["taken_at"] and now)
    assert (later["ready"], later["lines_total"], later["counted_at"]) == (0, first["lines_total"], first["counted_at"])
    assert later["lines_total"] >= 1_000
    assert later["connected_workers"] == 2


def protheon(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the same user, on the same database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    env = {**kept, "PROTHEON_HOME": world.cluster.settings.home, "PROTHEON_DATABASE_URL": world.cluster.url}
    return subprocess.run([str(PROTHEON), *words], env=env, capture_output=True, text=True, timeout=60, check=False)


def assert_reports_tell(world: World, run_id: int, told: str) -> None:
    """``runs list`` and ``runs show`` say what the run waits for, and since when."""
    dated = re.compile(r"since \d\d:\d\d:\d\d UTC: .*" + re.escape(told))
    shown, listed = protheon(world, "runs", "show", str(run_id), "--json"), protheon(world, "runs", "list", "--json")
    if shown.returncode == 0:
        assert dated.search(json.loads(shown.stdout)["reason"])
        assert dated.search(next(row["waits_for"] for row in json.loads(listed.stdout) if row["run"] == run_id))
    else:  # it is the ledger that is away
        assert [shown.returncode, listed.returncode] == [75, 75]
        assert dated.search(shown.stderr)
        assert dated.search(listed.stderr)


def wait_both_at_work(world: World, run_id: int) -> None:
    """Both workers wait at the gate: each has a chunk open."""
    wait_until(lambda: len(world.cluster.worker_pids()) == 2)  # the one that a test before killed is back
    open_attempts = "SELECT DISTINCT worker FROM protheon.attempt WHERE run_id = %s AND ended_at IS NULL"
    wait_until(lambda: len(world.ask(open_attempts, run_id)) == 2)


def kill_at_work(world: World, run_id: int) -> None:
    """kill -9 of a worker that waits at the gate: its chunk is open, and the broker hears of it at once."""
    wait_both_at_work(world, run_id)
    os.kill(world.cluster.worker_pids()[0][1], signal.SIGKILL)


def assert_whole(world: World, done: RunStatistics, name: str, costs: Collection[str] = (), n_crashes: int = 0) -> None:
    """Each line is there once, and nothing was charged but so many crashes, and what costs names."""
    assert (done.state, done.loaded) == ("succeeded", N_LINES)
    assert done.reason is None
    assert numbers(world.url, name) == list(range(N_LINES))
    charged = "SELECT cost, outcome, message FROM protheon.attempt WHERE run_id = %s AND cost <> 'nothing' AND cost <> ALL (%s)"
    assert world.ask(charged, done.run, list(costs)) == [("crash", "crashed", "the worker process died")] * n_crashes
    assert world.findings(done.run) == ()
