"""Of tasks that are done the scheduler keeps nothing for ever: Dask's own spans, pruned."""

from __future__ import annotations

import time
from typing import Any

import pytest
from distributed import Client, Event, LocalCluster
from distributed.spans import SpansSchedulerExtension, span

from protheon_dask.run.spans import DEFAULT, KEPT_RECORDS, KEPT_S, PERIOD_S, Pruning, bear_forgotten, prune
from tests.fixtures.cluster import wait_until


@pytest.fixture
def client() -> Any:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp") as cluster,  # type: ignore[no-untyped-call]  # distributed is not typed here
        Client(cluster) as client,  # type: ignore[no-untyped-call]  # as above
    ):
        yield client


def spans_of(client: Client) -> SpansSchedulerExtension:
    """Of the scheduler in this process."""
    found: SpansSchedulerExtension = client.cluster.scheduler.extensions["spans"]
    return found


def wait_for_end() -> None:
    """A task that ends when the test says so."""
    Event("end").wait()  # type: ignore[no-untyped-call]  # distributed is not typed here


def run(client: Client, n: int) -> None:
    """That many tasks, one after the other: the scheduler is idle in between."""
    for value in range(n):
        future = client.submit(int, value, pure=False)
        assert future.result() == value
        future.release()
        wait_until(lambda: not client.cluster.scheduler.tasks)


def test_a_span_that_is_done_goes_after_an_hour_and_one_that_somebody_named_stays(client: Client) -> None:
    spans = spans_of(client)
    run(client, 3)
    with span("mine"):
        run(client, 1)
    n = len(spans.spans)
    assert n >= 4  # else Dask has mended it, and run/spans.py can go
    prune(client.cluster.scheduler, time.time() - KEPT_S)
    assert len(spans.spans) == n
    prune(client.cluster.scheduler, time.time() + 1)
    assert [it.name for it in spans.spans.values()] == [it.name for it in spans.root_spans] == [("mine",)]
    assert spans.spans_search_by_name[DEFAULT] == []
    assert spans.spans_search_by_tag["default"] == []
    run(client, 1)  # and goes on: workers' heartbeats, too
    assert len(spans.spans) == 2


def test_a_span_to_which_the_next_task_is_added_stays(client: Client) -> None:
    spans = spans_of(client)
    kept = client.submit(int, 1, pure=False)
    assert kept.result() == 1
    prune(client.cluster.scheduler, time.time() + 1)
    assert len(spans.spans) == 1
    assert client.submit(int, 2, pure=False).result() == 2  # else it fails: its group's span is not there


def test_of_a_span_at_work_the_last_graphs_are_known(client: Client) -> None:
    spans = spans_of(client)
    blocked = client.submit(wait_for_end, pure=False)
    futures = [client.submit(int, value, pure=False) for value in range(3 * KEPT_RECORDS)]
    wait_until(lambda: len(client.cluster.scheduler.tasks) == 1 + 3 * KEPT_RECORDS)
    [mine] = spans.spans.values()
    assert mine.metadata is not None
    assert len(mine.metadata["collections"]) == 1 + 3 * KEPT_RECORDS
    prune(client.cluster.scheduler, time.time() + 1)
    assert list(spans.spans.values()) == [mine]
    assert len(mine.metadata["collections"]) == KEPT_RECORDS
    Event("end", client=client).set()  # type: ignore[no-untyped-call]  # distributed is not typed here
    assert blocked.result() is None
    assert client.gather(futures) == list(range(3 * KEPT_RECORDS))


def test_a_worker_that_tells_of_a_span_that_was_forgotten_works_on(client: Client) -> None:
    scheduler = client.cluster.scheduler
    bear_forgotten(scheduler)
    running = client.submit(wait_for_end, pure=False)
    wait_until(lambda: any(worker.processing for worker in scheduler.workers.values()))
    running.cancel()
    wait_until(lambda: not scheduler.tasks)
    prune(scheduler, time.time() + 1)
    assert spans_of(client).spans == {}
    Event("end", client=client).set()  # type: ignore[no-untyped-call]  # distributed is not typed here
    [worker] = scheduler.workers.values()
    for _ in range(3):  # heartbeats: one of them tells of it
        seen_at = worker.last_seen
        wait_until(lambda seen_at=seen_at: worker.last_seen > seen_at)
    assert client.submit(int, 7, pure=False).result() == 7
    assert list(scheduler.workers.values()) == [worker]


def test_it_looks_once_in_a_while(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("protheon_dask.run.spans.time.monotonic", lambda: now[0])
    looked: list[float] = []
    monkeypatch.setattr("protheon_dask.run.spans.prune", lambda _scheduler, before: looked.append(before))
    pruning = Pruning()
    for _ in range(5):
        pruning.look(client.cluster.scheduler)
    assert len(looked) == 1
    now[0] += PERIOD_S
    pruning.look(client.cluster.scheduler)
    assert len(looked) == 2
