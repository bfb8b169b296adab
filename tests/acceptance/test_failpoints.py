"""A process that dies, or meets an error, at any boundary: the run ends by itself with each row once, charged as the place says.

One cluster for all: its processes look at a file for what to do where (protheon_dask.failpoints), which each test writes anew.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from protheon_dask import failpoints
from protheon_dask.run import supervise
from tests.acceptance.conftest import World, new_world
from tests.fixtures.cluster import wait_until
from tests.fixtures.failpoints import Switch, armed_children

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

N_LINES, CHUNK_LINES, KEY_LINES = 600, 100, 150
SETTINGS = {"lease_s": 3, "renew_s": 1, "exit_grace_s": 1, "stall_s": 30, "backoff_base_s": 0.1}
PIPELINE = f"""
import protheon_dask as protheon

ROWS = protheon.Table(name="public.points", columns=(protheon.Column("n", "bigint"),), provenance=True)
KEYS = protheon.Table(
    name="public.keys", columns=(protheon.Column("key", "bigint"), protheon.Column("n_lines", "bigint")),
    primary_key=("key",), on_conflict="add", shared=True,
)

@protheon.pipeline(version="1", tables=[ROWS, KEYS])
def points(line: bytes):
    '''No key and no rule: a row that is loaded twice shows. A counter: a line that is counted twice shows.'''
    n = int(line)
    yield ROWS, (n,)
    yield KEYS, (n // {KEY_LINES}, 1)
"""

CRASH, FAILURE, LOSS = ("crashed", "crash"), ("failed", "failure"), ("expired", "loss")
WORKER = [point for point, meaning in failpoints.POINTS.items() if meaning.startswith("worker:")]
IN_ATTEMPT = WORKER[WORKER.index("claim.after") : WORKER.index("commit.after")]
CHARGED: dict[tuple[str, str], list[tuple[str, str]]] = {
    **{(point, "kill"): [CRASH] for point in IN_ATTEMPT},
    **{(point, "raise"): [FAILURE] for point in IN_ATTEMPT},
    # Nobody in this process knows whether the claim happened; the attempt is left to its lease.
    ("claim.after", "raise"): [LOSS],
    # The broker dies before it has written that the worker is gone, and nobody else knows.
    ("expire.before", "kill"): [LOSS],
    ("expire.before", "raise"): [LOSS],
    ("expire.after", "kill"): [CRASH],
    ("expire.after", "raise"): [CRASH],
}
"""What is charged for a fault; elsewhere nothing: no attempt was open, or it stands."""
FIRST = count(0, N_LINES)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with armed_children(tmp_path_factory.mktemp("failpoints") / "switch") as made:
        yield made


@pytest.fixture(scope="module")
def module_world(switch: Switch, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(supervise, "MAX_PAUSE_S", supervise.FIRST_PAUSE_S)  # so many ends of one broker are no usual day
        yield stack.enter_context(new_world(postgres_url, tmp_path_factory.mktemp("world"), **SETTINGS))


TELLING = {
    *(
        (point, "kill")
        for point in ("claim.after", "begin.after", "copy.mid", "merge.after", "complete.after", "commit.before", "commit.after")
    ),
    *((point, "raise") for point in ("copy.mid", "complete.after", "commit.after")),
    ("split.mid", "kill"),
    ("rename.after", "kill"),
    ("manifest.before", "kill"),
    ("manifest.after", "raise"),
    ("dispatch.after", "raise"),
    ("expire.after", "kill"),
}
"""Of these two ends of each point, the more telling ones: the others take two more minutes."""


@pytest.mark.parametrize(
    ("point", "action"),
    [
        pytest.param(point, action, marks=[] if (point, action) in TELLING else [pytest.mark.slow])
        for point in failpoints.POINTS
        for action in ("kill", "raise")
    ],
)
def test_a_process_that_fails_at_a_boundary_loses_nothing_and_doubles_nothing(
    world: World, switch: Switch, tmp_path: Path, point: str, action: str
) -> None:
    first = next(FIRST)
    source, pipeline = tmp_path / "n.txt", tmp_path / "points.py"
    source.write_text("".join(f"{n}\n" for n in range(first, first + N_LINES)))
    pipeline.write_text(PIPELINE)
    before = ["copy.mid=kill*1"] if point.startswith("expire.") else []  # there must be something to take back
    switch.arm(*before, f"{point}={action}*1")
    run_id = world.submit(f"{pipeline}:points", source, chunk_lines=CHUNK_LINES).run_id
    done = world.finish(run_id)
    switch.disarm()

    assert len(switch.fired(point)) == 1
    assert (done.state, done.lines, done.loaded) == ("succeeded", N_LINES, N_LINES)
    rows = world.ask("SELECT n FROM public.points WHERE n BETWEEN %s AND %s ORDER BY n", first, first + N_LINES - 1)
    assert [n for (n,) in rows] == list(range(first, first + N_LINES))
    counted = world.ask("SELECT key, n_lines FROM public.keys WHERE key >= %s", first // KEY_LINES)
    assert Counter(dict(counted)) == Counter(n // KEY_LINES for n in range(first, first + N_LINES))
    charged = [(outcome, cost) for story in world.attempts(run_id).values() for outcome, cost in story if cost != "nothing"]
    assert charged == CHARGED.get((point, action), [])
    assert world.ask("SELECT task_id FROM protheon.attempt WHERE ended_at IS NULL") == []
    assert world.ask("SELECT DISTINCT state FROM protheon.task") == [("succeeded",)]
    assert world.findings(run_id) == ()
    wait_until(lambda: not files_in_workspace(world))


def files_in_workspace(world: World) -> list[Path]:
    return [path for path in Path(world.cluster.settings.home, "workspace").rglob("*") if path.is_file()]
