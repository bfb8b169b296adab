"""The kernel ends a worker that takes more memory than its host has: its chunk is charged with a crash, and nobody else is."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.cluster import StartCluster, ask, finish, load

MEMORY = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 1 << 30
"""For all processes of the host together: twice what they take at rest."""
N_LINES, POISON_LINE = 2_000, 700
PIPELINE = '''
import protheon_dask as protheon

T = protheon.Table(name="public.eaten", columns=(protheon.Column("n", "bigint"),))

@protheon.pipeline(version="1", tables=[T])
def eat(line: bytes):
    """No key and no rule: a row that is loaded twice shows."""
    if line == b"700":
        eaten = [bytearray(1 << 26) for _ in range(64)]  # 4 GiB, each page written
        return (len(eaten),)
    return (int(line),)
'''


@pytest.fixture
def small_host() -> Iterator[Path]:
    """A group of processes with little memory, empty yet."""
    path = MEMORY / f"protheon-test-{secrets.token_hex(4)}"
    try:
        path.mkdir()
        (path / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    except OSError as exc:
        pytest.skip(f"no group with a limit of memory can be made here: {exc}")
    yield path
    path.rmdir()


@pytest.mark.slow
def test_a_chunk_that_eats_all_memory_is_a_dead_letter_and_its_neighbours_are_loaded(
    small_host: Path, start_cluster: StartCluster, tmp_path: Path, database: str
) -> None:
    pipeline, source = tmp_path / "eat_pipeline.py", tmp_path / "numbers.txt"
    pipeline.write_text(PIPELINE)
    source.write_text("".join(f"{n}\n" for n in range(1, N_LINES + 1)))
    with start_cluster() as cluster:
        supervisor = psutil.Process(cluster._processes["workers"].process.pid)
        for process in [supervisor, *supervisor.children(recursive=True)]:
            (small_host / "cgroup.procs").write_text(str(process.pid))  # what they start is born there
        done = finish(cluster, load(cluster, f"{pipeline}:eat", source, chunk_lines=500))

        assert (done.state, done.chunks_done, done.chunks_dead) == ("incomplete", 3, 1)
        told = (small_host / "memory.oom_control").read_text().split()
        assert int(told[told.index("oom_kill") + 1]) >= 1  # where eating is slow, Dask's nanny may be quicker than the kernel
    endings = ask(
        database,
        "SELECT chunk.chunk_no, attempt.outcome, attempt.cost, count(*) FROM protheon.attempt JOIN protheon.chunk USING (task_id)"
        " GROUP BY 1, 2, 3 ORDER BY 1",
    )
    poisoned = 1 + (POISON_LINE - 1) // 500
    assert [row for row in endings if row[0] == poisoned] == [(poisoned, "crashed", "crash", 3)]
    assert [row[1] for row in endings if row[0] != poisoned] == ["succeeded"] * 3
    assert ask(database, "SELECT count(*), count(DISTINCT n) FROM public.eaten") == [(1_500, 1_500)]
