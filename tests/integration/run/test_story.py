"""A run's story is what the ledger knows of its own attempts: nothing is lost between its pieces, whatever its attempts met."""

from __future__ import annotations

import json
from collections import Counter
from uuid import uuid4

import pytest

from protheon_dask.errors import NotFound
from protheon_dask.ledger import runs, stories, verbs
from protheon_dask.model import STAGES, Cost, Failed, Lease, Outcome
from protheon_dask.run.story import story_of
from protheon_dask.telemetry.story import RunStory
from tests.integration.run.conftest import Bench

TEN = "".join(f"{n}\n" for n in range(10))
MADE_ATTEMPTS = """
INSERT INTO protheon.attempt (task_id, attempt_no, token, run_id, process_uuid, worker, host, started_at, ended_at, outcome, cost, copy_s)
SELECT %(task_id)s, no, gen_random_uuid(), run.id, %(process)s, 'w', 'h', run.submitted_at + make_interval(secs => no),
       CASE WHEN %(outcome)s <> 'open' THEN run.submitted_at + make_interval(secs => no + %(took_s)s) END, nullif(%(outcome)s, 'open'),
       CASE WHEN %(outcome)s <> 'open' THEN 'nothing' END, %(took_s)s
  FROM protheon.run, generate_series(%(first_no)s::integer, %(first_no)s + %(n)s - 1) AS no
 WHERE run.id = %(run_id)s
"""


def made_attempts(bench: Bench, outcome: str, first_no: int, n: int, took_s: float = 1.0, task: int = 0) -> None:
    """Attempts of the run by a process of their own, one begun each second, from second first_no on."""
    values = {
        "run_id": bench.run_id, "task_id": bench.task_ids[task], "outcome": outcome, "first_no": first_no, "n": n, "took_s": took_s,
        "process": uuid4(),
    }  # fmt: skip
    bench.conn.execute(MADE_ATTEMPTS, values)


def chosen(bench: Bench, limit: int) -> dict[str | None, list[int]]:
    """Numbers of the attempts that a story of this many tells, by their outcome."""
    found: dict[str | None, list[int]] = {}
    for row in stories.spans(bench.conn, bench.run_id, limit):
        found.setdefault(row["outcome"], []).append(row["attempt_no"])
    return found


def told(bench: Bench) -> RunStory:
    """The story, after its way over JSON."""
    story = story_of(bench.conn, bench.run_id)
    again = RunStory.from_json(json.loads(json.dumps(story.to_json())))
    assert again == story
    return story


def test_its_pieces_add_up_to_what_was_committed(bench: Bench) -> None:
    bench.submit(TEN + "10\nnot a number\n\nnor this\n")
    bench.load_all(bench.worker())
    story = told(bench)
    statistics = story.statistics
    assert sum(piece.lines for piece in story.bins) == statistics.lines == 14
    assert sum(piece.rows for piece in story.bins) == 11
    assert sum(piece.raw_bytes for piece in story.bins) == statistics.raw_bytes
    assert sum(piece.wire_bytes for piece in story.bins) > 0
    assert sum(piece.rejects for piece in story.bins) == statistics.rejected == 2
    for stage in STAGES:
        in_pieces = sum(piece.stage_seconds.get(stage, 0.0) for piece in story.bins)
        assert in_pieces == pytest.approx(statistics.stage_seconds[stage], abs=0.001)
    assert [(span.chunk_no, span.outcome, span.lines) for span in story.spans] == [(1, "succeeded", 10), (2, "succeeded", 4)]
    assert all(span.end_s is not None and 0 <= span.start_s <= span.end_s <= statistics.seconds for span in story.spans)
    assert [(reason.n, "not a number" in reason.reason or "nor this" in reason.reason) for reason in statistics.refusals] == [(2, True)]
    assert (story.n_attempts, story.n_workers, story.n_hosts) == (2, 1, 1)
    assert story.settings["reject limit"] == "no limit"


def test_attempts_without_effect_are_told_with_their_causes_and_dead_letters_apart(bench: Bench) -> None:
    bench.submit(TEN + "10\n", body="if line == b'10':\n    raise MemoryError('no room <b>')")
    worker = bench.worker()
    assert bench.worker().run(bench.dispatch(0)) == "succeeded"
    for _ in range(5):
        bench.make_due()
        worker.run(bench.dispatch(1))
    story = told(bench)
    causes = sum((Counter(piece.retries_by_cause) for piece in story.bins), Counter())
    assert causes == {"failed": 4}
    assert sum(piece.dead_letters for piece in story.bins) == story.statistics.dead_letters == 1
    failed = [span for span in story.spans if span.outcome == "failed"]
    assert [span.attempt_no for span in failed] == [1, 2, 3, 4, 5]
    assert {(span.error_class, span.message, span.cost) for span in failed} == {("MemoryError", "no room <b>", "failure")}
    assert [(death.n, death.error_class) for death in story.statistics.deaths] == [(1, "MemoryError")]
    assert story.files[0].chunks_dead == 1


def test_a_lease_that_ran_out_and_an_attempt_that_runs_are_told(bench: Bench) -> None:
    bench.submit(TEN)
    worker = bench.worker()
    for _ in range(2):
        claimed = worker._claim(bench.dispatch(), uuid4())
        assert claimed is not None
        if bench.endings()[-1][0] == 1:
            bench.expire()
    story = told(bench)
    assert [(span.attempt_no, span.outcome, span.cost) for span in story.spans] == [(1, "expired", "loss"), (2, None, None)]
    assert story.spans[1].end_s is None
    assert sum((Counter(piece.retries_by_cause) for piece in story.bins), Counter()) == {"expired": 1}


def test_a_run_tells_its_own_attempts_and_counts_what_came_from_before(bench: Bench) -> None:
    source = bench.directory / "numbers.txt"
    source.write_text(TEN + "10\n11\n")
    bench.submit(source)
    first_run, first_tasks = bench.run_id, bench.task_ids
    assert bench.worker().run(bench.dispatch(0)) == "succeeded"
    with bench.conn.transaction():
        runs.cancel_run(bench.conn, first_run, "by hand")
    bench.submit(source)
    bench.task_ids = first_tasks
    assert bench.worker().run(bench.dispatch(1)) == "succeeded"
    before, story = story_of(bench.conn, first_run), told(bench)
    assert [(span.chunk_no, span.outcome) for span in before.spans] == [(1, "succeeded")]
    assert [(span.chunk_no, span.outcome) for span in story.spans] == [(2, "succeeded")]
    assert (story.statistics.lines, story.statistics.own_lines, sum(piece.lines for piece in story.bins)) == (12, 2, 2)
    assert [file.joined for file in story.files] == ["resumed"]


def test_an_empty_file_makes_a_story_without_attempts(bench: Bench) -> None:
    bench.submit("")
    story = told(bench)
    assert (story.n_attempts, story.spans, story.statistics.refusals, story.statistics.chunks) == (0, (), (), 0)
    assert story.bins
    assert not any(piece.lines for piece in story.bins)


def test_a_run_that_is_not_there_is_named(bench: Bench) -> None:
    with pytest.raises(NotFound, match="there is no run 77"):
        story_of(bench.conn, 77)


def test_a_story_is_of_one_moment(bench: Bench) -> None:
    bench.submit(TEN)
    with stories.snapshot(bench.conn):
        facts = stories.run_facts(bench.conn, bench.run_id)
        assert bench.worker().run(bench.dispatch()) == "succeeded"
        assert facts is not None
        assert facts["n_attempts"] == 0
        assert stories.spans(bench.conn, bench.run_id, 10) == []
    assert len(stories.spans(bench.conn, bench.run_id, 10)) == 1


def test_of_too_many_attempts_those_without_effect_come_first_and_the_others_evenly(bench: Bench) -> None:
    bench.submit(TEN)
    made_attempts(bench, "succeeded", 1, 100)
    made_attempts(bench, "crashed", 101, 10)
    made_attempts(bench, "open", 111, 1)
    everything = chosen(bench, 111)
    assert {outcome: len(numbers) for outcome, numbers in everything.items()} == {"succeeded": 100, "crashed": 10, None: 1}
    some = chosen(bench, 31)
    assert {outcome: len(numbers) for outcome, numbers in some.items()} == {"succeeded": 20, "crashed": 10, None: 1}
    assert some["succeeded"] == list(range(5, 101, 5))
    few = chosen(bench, 10)
    assert sum(map(len, few.values())) == 10
    assert len(few["succeeded"]) == 2, "a fifth of the places is kept for those that succeeded"
    assert len(story_of(bench.conn, bench.run_id).spans) == 111


def test_the_seconds_of_an_attempt_are_spread_over_the_time_that_it_took(bench: Bench) -> None:
    bench.submit(TEN)
    made_attempts(bench, "succeeded", 5, 1, took_s=20.0)  # from second 5 to 25
    made_attempts(bench, "failed", 12, 1, took_s=3.0)
    pieces = stories.pieces(bench.conn, bench.run_id, 10.0, 3)
    assert [round(pieces[no]["copy_s"], 3) for no in range(3)] == [5.0, 13.0, 5.0]
    ends_in_the_last = stories.pieces(bench.conn, bench.run_id, 10.0, 2)
    assert [round(ends_in_the_last[no]["copy_s"], 3) for no in range(2)] == [5.0, 18.0], "what ends after the last piece belongs to it"


@pytest.mark.parametrize(
    ("second_from", "took_s", "told"),
    [
        (1, 1.0, "bound by COPY on the database"),
        (31, 1.0, "bound by COPY on the database"),  # its process was gone until then: nobody waited
        (1, 0.3, "bound by what there is to do: workers wait 69 % of the time"),
    ],
)
def test_what_bounded_a_run_is_told_and_a_process_that_was_gone_is_no_waiting(
    bench: Bench, second_from: int, took_s: float, told: str
) -> None:
    bench.submit(TEN + "10\n")
    bench.conn.execute("UPDATE protheon.run SET submitted_at = submitted_at - interval '60 s' WHERE id = %s", (bench.run_id,))
    made_attempts(bench, "succeeded", 1, 50, took_s, task=0)
    made_attempts(bench, "succeeded", second_from, 51 - second_from, took_s, task=1)
    bench.conn.execute("UPDATE protheon.task SET state = 'succeeded', attempt_no = 50, created_at = created_at - interval '60 s'")
    bench.conn.execute("UPDATE protheon.attempt SET copy_s = 50 WHERE attempt_no = 50")
    bound = story_of(bench.conn, bench.run_id).bound
    assert bound is not None
    assert bound.startswith(told)


def test_a_pause_is_no_lack_of_work(bench: Bench) -> None:
    bench.submit(TEN)
    bench.conn.execute("UPDATE protheon.run SET submitted_at = submitted_at - interval '900 s' WHERE id = %s", (bench.run_id,))
    made_attempts(bench, "succeeded", 1, 50)
    made_attempts(bench, "succeeded", 800, 50)
    bench.conn.execute("UPDATE protheon.attempt SET process_uuid = %s", (uuid4(),))
    bench.conn.execute("UPDATE protheon.task SET state = 'succeeded', attempt_no = 849, created_at = created_at - interval '900 s'")
    bench.conn.execute("UPDATE protheon.attempt SET copy_s = 50 WHERE attempt_no = 849")
    assert "bound by COPY on the database" in str(story_of(bench.conn, bench.run_id).bound)


def test_a_task_that_was_given_back_by_its_worker_is_a_retry_by_that_cause(bench: Bench) -> None:
    bench.submit(TEN)
    claimed = bench.worker()._claim(bench.dispatch(), uuid4())
    assert claimed is not None
    lease = Lease(bench.task_ids[0], 1, 60.0)
    with bench.conn.transaction():
        verbs.release(bench.conn, lease, Failed(Cost.NOTHING, "Drained", "the worker was drained"), Outcome.RELEASED, 0.0)
    assert sum((Counter(piece.retries_by_cause) for piece in told(bench).bins), Counter()) == {"released": 1}
