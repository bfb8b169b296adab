"""cluster.chunks(): lines of sources as Dask's own collections, beside runs on the same workers, through lost workers and brokers."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.bag
import psutil
import pytest
import zstandard
from distributed import Client

import protheon_dask as protheon
from protheon_dask.errors import NotFound
from protheon_dask.run.cluster import Cluster
from tests.acceptance.conftest import Gate, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.kernel import run_cells
from tests.fixtures.postgres import fresh_database

N_LINES = 4_000
ROOT = Path(__file__).parents[2]


@dataclass
class Bench:
    cluster: Cluster
    url: str
    directory: Path

    def worker_pids(self) -> list[int]:
        """Of the processes that work now."""
        try:
            return list(self.cluster.client.run(os.getpid).values())
        except OSError:  # one of them was killed this moment
            return []

    def broker_pid(self) -> int:
        [process] = [
            child
            for child in psutil.Process().children(recursive=True)
            if "protheon_dask.run.broker" in child.cmdline() and "protheon_dask.run.tether" not in child.cmdline()
        ]
        return process.pid


@pytest.fixture(scope="module")
def bench(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One cluster for all tests here."""
    directory = tmp_path_factory.mktemp("chunks")
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database(postgres_url))
        ports = dict.fromkeys(("broker_port", "scheduler_port", "dashboard_port", "http_port"), 0)
        cluster = stack.enter_context(protheon.local(workers=2, into=url, home=str(directory / "home"), **ports))
        yield Bench(cluster, url, directory)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl.zst"
    lines = b"".join(b'{"n": %d}\n' % n for n in range(N_LINES))
    path.write_bytes(zstandard.ZstdCompressor().compress(lines))
    return path


# Functions that go to the scheduler and the workers are made in others: pickled by value, they do not have this module imported there.


def slowly() -> Callable[[bytes], int]:
    def number(line: bytes) -> int:
        time.sleep(0.001)
        return int(json.loads(line)["n"])

    return number


def test_a_bag_of_the_lines_is_computed_on_the_workers(bench: Bench, source: Path) -> None:
    bag = dask.bag.from_delayed(bench.cluster.chunks(source, chunk_lines=500)).map(json.loads)
    assert bag.pluck("n").sum().compute() == sum(range(N_LINES))
    pids = dask.bag.from_delayed(bench.cluster.chunks(source, chunk_lines=500)).map_partitions(lambda _: [os.getpid()]).compute()
    assert len(pids) == 8
    assert os.getpid() not in pids


def test_a_worker_that_is_killed_in_the_midst_of_a_bag_changes_nothing_of_its_result(bench: Bench, source: Path) -> None:
    bag = dask.bag.from_delayed(bench.cluster.chunks(source, chunk_lines=500)).map(slowly())
    with ThreadPoolExecutor() as pool:
        result = pool.submit(bag.sum().compute, scheduler=bench.cluster.client)
        wait_until(lambda: any(bench.cluster.client.processing().values()))
        os.kill(min(bench.worker_pids()), signal.SIGKILL)
        assert result.result(timeout=60) == sum(range(N_LINES))


@pytest.mark.slow
def test_a_task_that_kills_every_worker_ends_after_its_lives(bench: Bench, source: Path) -> None:
    from distributed.scheduler import KilledWorker

    def suicide(lines: list[bytes]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    [chunk] = bench.cluster.chunks(source, limit=1)
    with pytest.raises(KilledWorker):
        dask.delayed(suicide)(chunk).compute()
    wait_until(lambda: len(bench.worker_pids()) == 2)


def test_a_chunk_of_a_run_on_the_same_cluster_is_still_retried_by_the_ledger_alone(bench: Bench, tmp_path: Path, gate: Gate) -> None:
    """Its worker is killed in its midst, while a bag's task was there: each attempt is one of the ledger's, and charged."""
    source = write_numbers(tmp_path / "n.txt", 40)
    run = bench.cluster.load(source, write_pipeline(tmp_path, "retried", gate.body(passes=0, chunk_lines=40)), chunk_lines=40)
    wait_until(lambda: len(run.attempts()) == 1)
    keys = {key for keys in bench.cluster.client.processing().values() for key in keys}
    os.kill(_pid_of(bench, keys), signal.SIGKILL)
    wait_until(lambda: len(run.attempts()) == 2)
    after = {key for keys in bench.cluster.client.processing().values() for key in keys}
    gate.open()
    run.wait(timeout=60)
    assert not keys & after, "Dask handed the same dispatch to another worker"
    assert numbers(bench.url, "retried") == list(range(40))
    story = run.attempts().sort_values("attempt_no")
    assert list(story["outcome"]) == ["crashed", "succeeded"]
    assert run.verify().findings == ()


def _pid_of(bench: Bench, keys: set[Any]) -> int:
    """The process that works at one of these keys."""
    client: Client = bench.cluster.client
    [address] = [address for address, working in client.processing().items() if keys & set(working)]
    return int(client.run(os.getpid, workers=[address])[address])


@pytest.mark.slow
def test_chunks_of_runs_go_before_those_of_people_unless_these_say_otherwise(
    bench: Bench, source: Path, tmp_path: Path, gate: Gate
) -> None:
    """Dask gives the lowest number first."""

    def priorities(dask_scheduler: Any) -> dict[str, tuple[float, ...]]:
        return {str(key): task.priority for key, task in dask_scheduler.tasks.items()}

    client, pipeline = bench.cluster.client, write_pipeline(tmp_path, "first", gate.body(passes=0, chunk_lines=10))
    run = bench.cluster.load(write_numbers(tmp_path / "n.txt", 100), pipeline, chunk_lines=10)
    wait_until(lambda: len(run.attempts()) == 2)  # both workers are at work and wait, so that all that follows does
    [one, other] = bench.cluster.chunks(source, chunk_lines=2_000)
    late, early = client.compute(one), client.compute(other, priority=101)
    wait_until(lambda: {late.key, early.key} <= set(client.run_on_scheduler(priorities)))
    found = client.run_on_scheduler(priorities)
    chunks = [value for key, value in found.items() if key.startswith("chunk-")]
    assert found[early.key] < min(chunks) <= max(chunks) < found[late.key]
    gate.open()
    run.wait(timeout=60)
    assert [len(lines) for lines in client.gather([late, early])] == [2_000, 2_000]


@pytest.mark.slow
def test_a_broker_that_is_killed_while_sources_are_cut_is_gone_on_with(bench: Bench, tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    big.write_bytes(b"".join(b'{"n": %d, "padding": "%s"}\n' % (n, b"x" * 1_000) for n in range(100_000)))
    home = bench.directory / "home" / "workspace" / "pins"
    known = set(home.glob("*/*"))
    with ThreadPoolExecutor() as pool:
        made = pool.submit(bench.cluster.chunks, big, 2_000)
        wait_until(lambda: [path for pin in set(home.glob("*/*")) - known for path in pin.glob("1/*.zst")])
        assert not made.done()
        os.kill(bench.broker_pid(), signal.SIGKILL)
        chunks = made.result(timeout=60)
    assert [chunk.first_line for chunk in chunks.pinned] == list(range(1, 100_001, 2_000))
    assert chunks[-1].compute(scheduler="threads")[-1].startswith(b'{"n": 99999,')
    chunks.close()


@pytest.mark.slow
def test_a_broker_that_is_killed_while_chunks_are_read_is_waited_for(bench: Bench, source: Path) -> None:
    bag = dask.bag.from_delayed(bench.cluster.chunks(source, chunk_lines=100)).map(slowly())
    future = bench.cluster.client.compute(bag.sum())
    wait_until(lambda: any(bench.cluster.client.processing().values()))
    os.kill(bench.broker_pid(), signal.SIGKILL)
    assert future.result(timeout=60) == sum(range(N_LINES))


def test_a_task_whose_chunks_are_gone_says_so(bench: Bench, source: Path) -> None:
    chunks = bench.cluster.chunks(source, limit=1)
    chunks.close()
    with pytest.raises(NotFound, match="their list was closed"):
        chunks[0].compute()


@pytest.mark.slow
def test_the_page_runs_from_its_first_cell_to_its_last(bench: Bench, tmp_path: Path) -> None:
    lines = b"".join(b'{"n": %d, "kind": "%s"}\n' % (n, b"odd" if n % 2 else b"even") for n in range(N_LINES))
    (tmp_path / "events.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    cells = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "chunks.md").read_text(), re.MULTILINE | re.DOTALL)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    env = {**kept, "PROTHEON_HOME": str(bench.directory / "home"), "PROTHEON_DATABASE_URL": bench.url, "PYTHONPATH": str(ROOT)}
    made, bag, frame, function, closed = run_cells(cells, tmp_path, env)
    assert made.text == f"4 chunks: 4,000 lines, {len(lines) / 1000:.1f} kB, of 1 file"
    assert bag.text == "[('even', 2000), ('odd', 2000)]"
    assert frame.text.split()[:5] == ["kind", "even", "1999.0", "odd", "2000.0"]
    assert function.text == str(max(map(len, lines.splitlines())))
    assert closed.text == ""


def test_in_this_process_it_works_without_a_worker_as_well(bench: Bench, source: Path) -> None:
    [chunk] = bench.cluster.chunks(source, limit=1, chunk_lines=3)
    assert chunk.compute(scheduler="threads") == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']


@pytest.mark.slow
def test_in_processes_of_its_own_it_works_as_well(bench: Bench, source: Path) -> None:
    [chunk] = bench.cluster.chunks(source, limit=1, chunk_lines=3)
    assert chunk.compute(scheduler="processes") == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
