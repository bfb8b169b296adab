"""Pipelines that kill, hang or refuse: one chunk pays, its neighbours do not, and the ledger says what happened."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from protheon_dask.policy import RejectLimit
from protheon_dask.run import api
from protheon_dask.run.settings import workers_log
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until

SETTINGS = {"lease_s": 6, "renew_s": 1, "exit_grace_s": 2, "stall_s": 6}


@pytest.mark.parametrize(
    ("name", "end", "logged"),
    [
        ("exits", "os._exit(9)", "exited with status 9"),
        ("segfaults", "import ctypes\n    ctypes.string_at(0)", "killed by signal 11"),
        pytest.param("kills", "import signal\n    os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9", marks=pytest.mark.slow),
        pytest.param("aborts", "os.abort()", "killed by signal 6", marks=pytest.mark.slow),
    ],
)
def test_a_line_that_kills_its_process_is_dead_after_three_crashes_and_harms_no_neighbour(
    world: World, name: str, end: str, logged: str
) -> None:
    source = write_numbers(world.directory / "n.txt", 4_000)
    done = world.load(write_pipeline(world.directory, name, f"if n == 2_500:\n    {end}"), source, chunk_lines=1_000)
    assert done.state == "incomplete"
    assert done.reason is not None
    assert "1 chunk is dead" in done.reason
    assert numbers(world.url, name) == [*range(2_000), *range(3_000, 4_000)]
    story = world.attempts(done.run)
    assert story[3] == [("crashed", "crash")] * 3
    assert {tuple(story[chunk]) for chunk in (1, 2, 4)} == {(("succeeded", "nothing"),)}
    [letter] = api.report(world.url, "dead_letters", done.run)
    assert (letter["chunk_no"], letter["first_line"], letter["reason"]) == (3, 2_001, "crashed or stalled its worker 3 times")
    assert (done.dead_letters, done.chunks_dead) == (1, 1)
    assert any("1 chunk is dead" in finding for finding in world.findings(done.run))
    wait_until(lambda: workers_log(world.cluster.settings).read_text().count(logged) >= 3)  # the log that `dlq show` names


@pytest.mark.slow
def test_a_pipeline_that_hangs_costs_a_crash_and_its_process_is_replaced(world: World, gate: Gate) -> None:
    """It hangs once: the second attempt at the same chunk goes through."""
    before = dict(world.cluster.worker_pids())
    source = write_numbers(world.directory / "n.txt", 2_000)
    once = f"if n == 1_500 and not os.path.exists({str(gate.path)!r}):\n    open({str(gate.path)!r}, 'w').close()\n    time.sleep(3_600)"
    done = world.load(write_pipeline(world.directory, "hang", once), source, chunk_lines=1_000)
    assert (done.state, done.lines) == ("succeeded", 2_000)
    assert world.attempts(done.run) == {1: [("succeeded", "nothing")], 2: [("crashed", "crash"), ("succeeded", "nothing")]}
    [(told,)] = world.ask("SELECT message FROM protheon.attempt WHERE outcome = 'crashed' AND run_id = %s", done.run)
    assert "no byte, row or statement for 6 s" in told
    assert numbers(world.url, "hang") == list(range(2_000))
    wait_until(lambda: len(world.cluster.worker_pids()) == 2)
    replaced = set(before.values()) - {pid for _, pid in world.cluster.worker_pids()}
    assert len(replaced) == 1
    assert not psutil.pid_exists(replaced.pop())


def test_lines_that_are_all_bad_pause_the_run_with_its_reason_and_leave_no_row(world: World) -> None:
    source = world.directory / "bad.txt"
    source.write_text("no number\n" * 30_000)
    done = world.load(write_pipeline(world.directory, "refused"), source, chunk_lines=10_000)
    assert done.state == "paused"
    assert done.reason is not None
    assert "reject limit of 50%: at least 6,000 of 10,000 lines are rejected, as line" in done.reason
    assert numbers(world.url, "refused") == []
    assert api.report(world.url, "rejects", done.run) == []
    wait_until(lambda: world.ask("SELECT count(*) FROM protheon.attempt WHERE ended_at IS NULL") == [(0,)])  # the other worker's
    assert {attempt for attempts in world.attempts(done.run).values() for attempt in attempts} == {("released", "nothing")}
    assert world.cluster.client.cancel(done.run).state == "cancelled"


def test_the_chunk_that_crosses_the_limit_is_not_visible_and_those_before_it_stay(world: World, gate: Gate) -> None:
    """Chunk 2 of two is all bad, and waits until the first one is loaded."""
    source = world.directory / "half.txt"
    source.write_text("".join(f"{n}\n" for n in range(1, 1_000)) + "0\n" + "x\n" * 1_000)
    pipeline = write_pipeline(world.directory, "half")
    run = world.submit(pipeline, source, chunk_lines=1_000, reject_limit=RejectLimit(lines=999))
    done = world.finish(run.run_id)
    assert (done.state, done.rejected) == ("paused", 0)
    assert api.report(world.url, "rejects", done.run) == []
    wait_until(lambda: numbers(world.url, "half") == list(range(1_000)))
    world.cluster.client.cancel(done.run)


def test_a_small_file_of_bad_lines_is_judged_at_its_end(world: World) -> None:
    source = world.directory / "few.txt"
    source.write_text("x\n" * 60 + "1\n" * 40)
    pipeline = write_pipeline(world.directory, "few")
    done = world.load(pipeline, source)
    assert (done.state, done.rejected, done.loaded) == ("incomplete", 60, 40)
    assert done.reason is not None
    assert "over the reject limit of 50%: 60 of 100 lines are rejected" in done.reason
    assert len(api.report(world.url, "rejects", done.run)) == 60
    borne = world.load(pipeline, source, reject_limit=RejectLimit(fraction=0.6))  # as its summary says
    assert (borne.state, borne.rejected, borne.loaded, borne.own_lines) == ("succeeded", 60, 40, 0)
    assert len(numbers(world.url, "few")) == 40


def test_a_pipeline_that_cannot_import_pauses_its_run_with_its_message_and_charges_no_chunk(world: World) -> None:
    """The one host there is lacks it, so no host can work."""
    source = write_numbers(world.directory / "n.txt", 10)
    pipeline = write_pipeline(world.directory, "missing", "import a_module_that_is_not_there")
    run = world.submit(pipeline, source)
    paused = world.finish(run.run_id)
    assert (paused.state, paused.reason) == ("paused", f"on {socket.gethostname()}: No module named 'a_module_that_is_not_there'")
    assert world.ask("SELECT state, failures FROM protheon.task WHERE load_id = %s", run.loads[0].load_id) == [("ready", 0)]
    [attempt] = api.report(world.url, "attempts", run.run_id)
    assert (attempt["outcome"], attempt["cost"], attempt["error_class"]) == ("failed", "failure", "ModuleNotFoundError")
    assert "a_module_that_is_not_there" in attempt["traceback"]
    assert world.cluster.client.cancel(run.run_id).state == "cancelled"


@pytest.mark.parametrize("in_the_middle", [False, True])
def test_chunk_files_that_vanish_under_a_run_are_cut_again(world: World, gate: Gate, in_the_middle: bool) -> None:
    name = f"vanished_{in_the_middle}".lower()
    source = write_numbers(world.directory / "n.txt", 12_000)
    run = world.submit(write_pipeline(world.directory, name, gate.body(3 if in_the_middle else 0, 1_000)), source, chunk_lines=1_000)
    wait_until(lambda: world.cluster.client.get(run.run_id).split_done)
    world.wait_chunks_done(run.run_id, 3 if in_the_middle else 0)
    files = list(Path(world.cluster.settings.home).glob(f"workspace/*/{run.loads[0].load_id}/*.zst"))
    assert len(files) >= 6
    for path in files:
        path.unlink(missing_ok=True)
    gate.open()
    done = world.finish(run.run_id)
    assert (done.state, done.lines) == ("succeeded", 12_000)
    assert numbers(world.url, name) == list(range(12_000))
    assert {cost for attempts in world.attempts(done.run).values() for _, cost in attempts} == {"nothing"}
    assert world.findings(done.run) == ()
    [(again,)] = world.ask("SELECT count(*) FROM protheon.chunk WHERE load_id = %s AND generation > 1", run.loads[0].load_id)
    assert 1 <= again <= len(files)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGSTOP is POSIX")
def test_a_frozen_worker_holds_up_its_own_chunk_and_no_other(world: World, gate: Gate) -> None:
    """Dask gives it up for dead only after 30 s or more: nothing may wait in its queue."""
    held = write_numbers(world.directory / "held.txt", 1_000)
    first = world.submit(write_pipeline(world.directory, "held", gate.body(0, 1_000)), held)
    wait_until(lambda: world.ask("SELECT 1 FROM protheon.attempt WHERE run_id = %s AND ended_at IS NULL", first.run_id))
    frozen = busy_process(world)
    os.kill(frozen, signal.SIGSTOP)
    try:
        pipeline = write_pipeline(world.directory, "others")
        started_s = time.monotonic()
        runs = [
            world.submit(pipeline, write_numbers(world.directory / f"{k}.txt", 3_000, first=k * 3_000), chunk_lines=1_000) for k in range(3)
        ]
        gate.open()
        assert [world.finish(run.run_id).state for run in (*runs, first)] == ["succeeded"] * 4
        assert time.monotonic() - started_s < 25
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert numbers(world.url, "others") == list(range(9_000))
    assert numbers(world.url, "held") == list(range(1_000))
    assert world.attempts(first.run_id) == {1: [("expired", "loss"), ("succeeded", "nothing")]}


def busy_process(world: World) -> int:
    """The worker process that has the one open attempt: it has the data connection that is in a transaction."""
    query = "SELECT client_port FROM pg_stat_activity WHERE application_name = 'protheon-worker' AND state = 'idle in transaction'"
    [(port,)] = wait_until(lambda: world.ask(query))
    pids = [pid for _, pid in world.cluster.worker_pids()]
    return next(pid for pid in pids if any(c.laddr.port == port for c in psutil.Process(pid).net_connections(kind="tcp") if c.raddr))
