"""What a picture keeps of the ledger between two looks is what counting everything anew would give, whatever happened meanwhile."""

from __future__ import annotations

import dataclasses

import psycopg
import pytest

from protheon_dask.ledger import pictures, runs, verbs
from protheon_dask.model import RunState
from protheon_dask.run.looking import SAVED_S, Allowance, LedgerLook, LedgerView
from protheon_dask.telemetry.picture import Totals
from tests.integration.run.conftest import Bench

LINES = "".join(f"{n}\n" for n in range(40))


class Time:
    """Moves on by a minute a look: everything is due, and nothing has taken any time."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Looks:
    """A look that keeps its sums, and one beside it that has none."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn, self._time = conn, Time()
        self.kept = LedgerLook(self._time)
        self.kept.look(conn)

    def look(self) -> LedgerView:
        self._time.now_s += 60.0
        view = self.kept.look(self.conn)
        anew = LedgerLook(self._time)
        anew.look(self.conn)
        fresh = anew.look(self.conn)
        assert view.totals == fresh.totals
        assert (view.look_ahead_chunks, view.oldest_ready_s is None) == (fresh.look_ahead_chunks, fresh.oldest_ready_s is None)
        assert [run.run for run in view.runs] == [run.run for run in fresh.runs]
        return view


@pytest.fixture
def looks(bench: Bench) -> Looks:
    return Looks(bench.conn)


def states(totals: Totals) -> tuple[int, ...]:
    return totals.tasks_ready, totals.tasks_running, totals.tasks_succeeded, totals.tasks_dead, totals.tasks_cancelled


def test_a_ledger_in_which_nothing_ever_happened_is_all_zeros(looks: Looks) -> None:
    view = looks.look()
    assert view.totals == Totals()
    assert (view.runs, view.oldest_ready_s, view.look_ahead_chunks, view.hosts_aside) == ((), None, 0, ())


def test_the_first_look_shows_runs_before_anything_is_counted(bench: Bench) -> None:
    bench.submit(LINES)
    look = LedgerLook(Time())
    first = look.look(bench.conn)
    assert (first.counted_at, [run.run for run in first.runs]) == (None, [bench.run_id])
    second = look.look(bench.conn)
    assert second.counted_at is not None
    assert second.totals.tasks_ready == 4


def test_sums_follow_a_run_from_chunk_to_chunk_and_stay_when_it_has_ended(bench: Bench, looks: Looks) -> None:
    bench.submit(LINES, body="if line == b'7':\n    raise protheon.Reject('seven')")
    view = looks.look()
    assert (states(view.totals), view.look_ahead_chunks) == ((4, 0, 0, 0, 0), 4)
    assert view.oldest_ready_s is not None
    worker = bench.worker()
    for n in range(4):
        assert worker.run(bench.dispatch(n)) == "succeeded"
        view = looks.look()
        assert states(view.totals) == (3 - n, 0, n + 1, 0, 0)
        assert (view.totals.lines, view.totals.rows, view.totals.rejects) == (10 * (n + 1), 10 * (n + 1) - 1, 1)
    runs.finish_loads(bench.conn)
    assert (looks.look().totals.files, looks.look().totals.files_completed) == (1, 1)
    [seen] = runs.open_runs(bench.conn)
    assert runs.end_run(bench.conn, bench.run_id, RunState.SUCCEEDED, None, seen=seen)
    view = looks.look()
    assert (states(view.totals), view.totals.lines, view.oldest_ready_s) == ((0, 0, 4, 0, 0), 40, None)
    assert view.runs[0].state is RunState.SUCCEEDED


@pytest.mark.slow
def test_two_runs_one_of_which_began_and_ended_between_two_looks(bench: Bench, looks: Looks) -> None:
    bench.submit(LINES)
    looks.look()
    first_run, first_tasks = bench.run_id, bench.task_ids
    bench.submit(LINES + "40\n")
    bench.load_all(bench.worker())
    view = looks.look()
    assert (states(view.totals), view.totals.lines, view.totals.files_completed) == ((4, 0, 5, 0, 0), 41, 1)
    bench.run_id, bench.task_ids = first_run, first_tasks
    with bench.conn.transaction():
        runs.cancel_run(bench.conn, first_run, "by hand")
    verbs.cancel(bench.conn)
    assert states(looks.look().totals) == (0, 0, 5, 0, 4)
    assert states(looks.look().totals) == (0, 0, 5, 0, 4)


def test_failures_retries_and_dead_letters_are_counted_by_their_cause(bench: Bench, looks: Looks) -> None:
    bench.submit(LINES, body="if line == b'0':\n    raise MemoryError('no room for it')")
    worker = bench.worker()
    for n_failures in range(1, 6):
        bench.make_due()
        assert worker.run(bench.dispatch(0)) == "failed"
        totals = looks.look().totals
        assert (totals.retries, totals.retries_by_cause) == (n_failures - 1, {"failed": n_failures - 1} if n_failures > 1 else {})
    assert (totals.tasks_dead, totals.dead_letters) == (1, 1)
    assert worker.run(bench.dispatch(1)) == "succeeded"
    assert states(looks.look().totals) == (2, 0, 1, 1, 0)


def test_tasks_without_a_run_count_too(bench: Bench, looks: Looks) -> None:
    for state in ("ready", "succeeded", "succeeded", "dead", "cancelled"):
        bench.conn.execute("INSERT INTO protheon.task (handler, state) VALUES ('m:f', %s)", (state,))
    view = looks.look()
    assert (states(view.totals), view.look_ahead_chunks) == ((1, 0, 2, 1, 1), 0)
    assert view.oldest_ready_s is not None
    bench.conn.execute("UPDATE protheon.task SET ready_at = now() + interval '1 hour'")
    assert looks.look().oldest_ready_s is None


def test_chunks_of_a_run_that_is_paused_wait_for_a_person_and_age_nobody(bench: Bench, looks: Looks) -> None:
    bench.submit(LINES)
    assert looks.look().oldest_ready_s is not None
    runs.pause_run(bench.conn, bench.run_id, "by hand")
    view = looks.look()
    assert (view.oldest_ready_s, states(view.totals)) == (None, (4, 0, 0, 0, 0))


def test_the_oldest_that_waits_is_found_behind_a_thousand_that_wait_for_a_person(bench: Bench, looks: Looks) -> None:
    bench.submit(LINES)
    bench.conn.execute(
        "INSERT INTO protheon.task (handler, state, load_id) SELECT 'ingest', 'ready', %s FROM generate_series(1, 1000)", (bench.load_id,)
    )
    first_run = bench.run_id
    bench.submit(LINES + "40\n")
    runs.pause_run(bench.conn, first_run, "by hand")
    bench.conn.execute("UPDATE protheon.task SET ready_at = now() - interval '1 hour'")
    view = looks.look()
    assert view.totals.tasks_ready == 1_004 + 5
    assert view.oldest_ready_s == pytest.approx(3_600, abs=60)
    bench.conn.execute("UPDATE protheon.task SET ready_at = now() + interval '1 hour'")
    assert looks.look().oldest_ready_s is None


@pytest.mark.parametrize("ago", ["30 s", "2 hours"])
def test_totals_never_fall_when_a_file_was_finished_long_before_it_is_seen(bench: Bench, looks: Looks, ago: str) -> None:
    """Its transaction took so long, or the database's clock was set back."""
    bench.submit(LINES)
    worker = bench.worker()
    for n in range(4):
        assert worker.run(bench.dispatch(n)) == "succeeded"
    before = looks.look().totals
    assert (before.lines, before.files_completed) == (40, 0)
    bench.conn.execute("UPDATE protheon.load SET finished_at = now() - %s::interval", (ago,))
    after = looks.look().totals
    assert after == dataclasses.replace(before, files_completed=1)
    assert looks.look().totals == after


def test_an_allowance_is_spent_and_comes_back_with_time() -> None:
    time = Time()
    allowance = Allowance(0.1, time)
    began_s = time()
    time.now_s += SAVED_S + 2.0  # a look that took that long, of which a tenth came back meanwhile
    allowance.spend(began_s)
    assert not allowance.is_left
    time.now_s += 10.0
    assert not allowance.is_left
    time.now_s += 20.0
    assert allowance.is_left


def test_what_takes_long_is_looked_at_seldom(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger whose answers take two seconds: counting takes a twentieth of the time, not all of it."""
    bench.submit(LINES)
    time, asked = Time(), 0
    load_sums = pictures.load_sums

    def slow(*args: object) -> list[pictures.LoadSums]:
        nonlocal asked
        asked += 1
        time.now_s += 2.0
        return load_sums(*args)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(pictures, "load_sums", slow)
    look = LedgerLook(time)
    for _ in range(300):
        look.look(bench.conn)
        time.now_s += 1.0
    assert 300 * 0.05 / 2 - 2 <= asked <= 350 * 0.05 / 2 + 3


def test_a_view_is_frozen(looks: Looks) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        looks.look().totals = Totals()  # type: ignore[misc]
