"""A process that was given up and lives says so: its losses are given back by its own keeper, on a real ledger."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.model import Dispatch
from protheon_dask.run.keeper import Attempt, LeaseKeeper
from protheon_dask.run.worker import STALL_EXIT
from tests.fixtures.cluster import wait_until
from tests.integration.run.conftest import Bench, Running


def losses(bench: Bench) -> tuple[int, int]:
    """What the task is charged with, and attempts whose loss was given back."""
    [(charged,)] = bench.ask("SELECT losses FROM protheon.task WHERE id = %s", bench.task_ids[0])
    [(given,)] = bench.ask("SELECT count(*) FROM protheon.attempt WHERE task_id = %s AND given_back", bench.task_ids[0])
    return charged, given


def open_attempt(bench: Bench) -> bool:
    return bool(bench.ask("SELECT 1 FROM protheon.attempt WHERE ended_at IS NULL"))


def expired(bench: Bench) -> bool:
    """Expire the attempt; False while its row is locked, say by the renewal that comes 20 times a second: expire.sql leaves it out."""
    try:
        bench.expire()
    except ValueError:
        return False
    return True


def is_given_back(bench: Bench, n: int) -> bool:
    return losses(bench) == (0, n)


HELD = "import os, time\nopen({gate!r} + '.began', 'w').close()\nwhile not os.path.exists({gate!r}):\n    time.sleep(0.01)"


@pytest.mark.slow
def test_a_process_whose_attempt_is_taken_twenty_one_times_while_it_lives_makes_no_dead_letter(bench: Bench) -> None:
    """As a laptop that sleeps: each time its lease is taken from it, and it is heard of again when its keeper renews."""
    gate = bench.directory / "open"
    bench.submit("1\n", body=HELD.format(gate=str(gate)))
    worker = bench.worker(lease_s=30.0, renew_s=0.05)
    for n in range(1, 22):
        running = Running(lambda: worker.run(bench.dispatch()))
        wait_until(lambda: open_attempt(bench))
        wait_until(lambda: expired(bench))
        wait_until(partial(is_given_back, bench, n))
        gate.touch()
        assert running.answer() == "lease lost"
        gate.unlink()
    gate.touch()
    assert worker.run(bench.dispatch()) == "succeeded"
    assert bench.numbers() == [1]
    assert bench.endings() == [*((n, "expired", "loss") for n in range(1, 22)), (22, "succeeded", "nothing")]


def test_a_worker_that_finds_its_lease_lost_before_its_keeper_gives_the_loss_back(bench: Bench) -> None:
    gate = bench.directory / "open"
    bench.submit("1\n", body=HELD.format(gate=str(gate)))
    running = Running(lambda: bench.worker(lease_s=1_000.0, renew_s=300.0, stall_s=1_000.0).run(bench.dispatch()))
    wait_until(lambda: open_attempt(bench))
    bench.expire()
    gate.touch()
    assert running.answer() == "lease lost"
    wait_until(lambda: losses(bench) == (0, 1))


def test_a_process_that_ends_renews_once_more_so_that_what_it_slept_through_is_given_back(bench: Bench) -> None:
    gate = bench.directory / "open"
    bench.submit("1\n", body=HELD.format(gate=str(gate)))
    worker = bench.worker(lease_s=1_000.0, renew_s=300.0, stall_s=1_000.0)
    running = Running(lambda: worker.run(bench.dispatch()))
    wait_until(lambda: gate.with_name("open.began").exists())  # before, the worker would find its lease lost by itself
    bench.expire()
    assert losses(bench) == (1, 0)
    worker.hurry()  # Dask's teardown
    wait_until(lambda: losses(bench) == (0, 1))
    gate.touch()
    assert running.answer() == "lease lost"


def test_what_could_not_be_given_back_while_postgres_was_away_is_given_back_after(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.submit("1\n")
    keeper = LeaseKeeper(bench.url + "_that_is_away", lease_s=30.0, renew_s=0.05, stall_s=60.0, on_stall=lambda _: None)
    claimed = bench.worker()._claim(Dispatch(bench.task_ids[0], 0, "ingest"), uuid4())
    assert claimed is not None
    bench.expire()
    with keeper.held(claimed.lease):
        keeper.give_back_nowait(claimed.lease)
        monkeypatch.setattr(keeper, "_url", bench.url)
        wait_until(lambda: losses(bench) == (0, 1))


def test_a_process_that_ends_itself_for_a_stall_gives_back_the_loss_of_a_lease_that_ran_out_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit("1\n")
    worker = bench.worker()
    claimed = worker._claim(Dispatch(bench.task_ids[0], 0, "ingest"), uuid4())
    assert claimed is not None
    bench.expire()
    assert losses(bench) == (1, 0)
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    worker._end_stalled(Attempt(claimed.lease))
    assert (losses(bench), ended) == ((0, 1), [STALL_EXIT])
    worker._keeper._drop_connection()


def test_a_task_that_is_locked_does_not_hold_up_the_renewals_of_others_and_is_given_back_later(bench: Bench) -> None:
    bench.submit("1\n2\n", chunk_lines=1)
    worker = bench.worker()
    lost, other = (worker._claim(Dispatch(task_id, 0, "ingest"), uuid4()) for task_id in bench.task_ids)
    assert lost is not None
    assert other is not None
    bench.expire()
    other_id = other.lease.task_id

    def lease_until() -> object:
        return bench.ask("SELECT lease_until_at FROM protheon.task WHERE id = %s", other_id)

    def is_renewed_since(before: object) -> bool:
        return lease_until() != before

    keeper = LeaseKeeper(bench.url, lease_s=1_000.0, renew_s=0.05, stall_s=1_000.0, on_stall=lambda _: None)
    with keeper.held(other.lease):
        with psycopg.connect(bench.url) as holder:
            holder.execute("SELECT FROM protheon.task WHERE id = %s FOR UPDATE", (lost.lease.task_id,))
            keeper.give_back_nowait(lost.lease)
            for _ in range(3):
                wait_until(partial(is_renewed_since, lease_until()), timeout_s=5.0)
            assert losses(bench) == (1, 0)
        wait_until(lambda: losses(bench) == (0, 1))
