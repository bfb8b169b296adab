"""The card of a real run in a real kernel: it shows the run at work, says that its master is away, goes on, and has the end."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.kernel import run_cells

ROOT = Path(__file__).parents[2]
CHUNK_LINES, N_CHUNKS, PASSES = 100, 8, 3

DRAWN = """
import os, signal, time

def wait_drawn(*texts):
    while not all(text in run._card._drawn["text/plain"] for text in texts):
        time.sleep(0.02)
    return run._card._drawn["text/plain"]
"""


def broker_pid(world: World) -> int:
    [pid] = [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "protheon_dask.run.broker" in process.cmdline() and "protheon_dask.run.tether" not in process.cmdline()
    ]
    return pid


@pytest.mark.slow
def test_the_card_of_a_run_moves_tells_an_outage_and_has_the_end(world: World, gate: Gate) -> None:
    pipeline = write_pipeline(world.directory, "watched", gate.body(PASSES, CHUNK_LINES))
    path = write_numbers(world.directory / "numbers.txt", CHUNK_LINES * N_CHUNKS)
    cells = (
        DRAWN,
        "import protheon_dask as protheon\ncluster = protheon.local()\ncluster",
        f"run = cluster.load({str(path)!r}, pipeline={pipeline!r}, chunk_lines={CHUNK_LINES})\nrun",
        f"print(wait_drawn('chunks {PASSES} of {N_CHUNKS}, 2 in flight'))",
        f"os.kill({broker_pid(world)}, signal.SIGKILL)\nprint(wait_drawn('since ', 'UTC'))",
        f"open({str(gate.path)!r}, 'w').close()\nfinal = run.wait()\nprint(run._card._drawn['text/plain'])",
        "run",
        "cluster.runs()",
        "run.verify()",
        "import threading\nwhile any(thread.name.startswith('protheon-card') for thread in threading.enumerate()):\n    time.sleep(0.02)",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    environment = {**kept, "PROTHEON_HOME": str(world.cluster._home), "PROTHEON_DATABASE_URL": world.url, "PYTHONPATH": str(ROOT)}
    _, cluster, shown, moving, outage, ended, again, runs, verified, threads = run_cells(cells, world.directory, environment)

    assert "2 workers" in cluster.shown["text/html"]
    assert "no runs yet" in cluster.shown["text/html"]
    assert f"lines {PASSES * CHUNK_LINES} of {N_CHUNKS * CHUNK_LINES}" in moving.printed
    assert "37 %" in moving.printed
    assert "37 %" in outage.printed, "what was committed stays"
    assert "succeeded" in ended.printed
    for cell in (shown, again):
        assert "✓ succeeded" in cell.shown["text/html"]
        assert "100 %" in cell.shown["text/html"]
        assert "public.watched" in cell.shown["text/html"]
        assert 'href="http://127.0.0.1:' in cell.shown["text/html"]
        assert "since " not in cell.shown["text/html"]
    assert "✓ succeeded" in runs.shown["text/html"]
    assert "✓ verified" in verified.shown["text/html"]
    assert threads.printed == ""
    assert numbers(world.url, "watched") == list(range(CHUNK_LINES * N_CHUNKS))
