"""verify_run proves a whole run from the ledger alone, and finds in words whatever was taken from it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from protheon_dask.ledger import runs
from protheon_dask.run import api
from tests.integration.run.conftest import Bench

LINES = "".join(f"{n}\n" for n in range(25)) + "no number\n\n1\n2\n3\n"  # three chunks; one reject and one blank in the last


@pytest.fixture
def loaded(bench: Bench) -> Bench:
    bench.submit(LINES)
    assert bench.load_all(bench.worker()) == ["succeeded"] * 3
    return bench


def findings(bench: Bench) -> list[str]:
    return list(api.verify_run(bench.url, bench.run_id).findings)


def test_a_run_that_is_whole_has_no_finding(loaded: Bench) -> None:
    verified = api.verify_run(loaded.url)
    assert (verified.run_id, verified.findings) == (loaded.run_id, ())
    assert len(verified.checked) == 6


def test_a_chunk_that_begins_too_late_is_found(loaded: Bench) -> None:
    loaded.conn.execute("UPDATE protheon.chunk SET first_line = 12 WHERE chunk_no = 2")
    assert any("chunk 2 begins at line 12, byte 20; line 11, byte 20 was to come" in finding for finding in findings(loaded))


def test_a_gap_of_bytes_between_lines_that_follow_is_found(loaded: Bench) -> None:
    loaded.conn.execute("UPDATE protheon.chunk SET byte_offset = byte_offset + 1 WHERE chunk_no = 3")
    [finding] = findings(loaded)
    assert "chunk 3 begins at line 21, byte 51; line 21, byte 50 was to come" in finding


@pytest.mark.parametrize("chunk_no", [1, 2, 3])
def test_a_chunk_that_is_missing_is_found(loaded: Bench, chunk_no: int) -> None:
    task_id = loaded.task_ids[chunk_no - 1]
    for table in ("reject", "table_count", "attempt", "chunk"):
        loaded.conn.execute(f"DELETE FROM protheon.{table} WHERE task_id = {task_id}".encode())
    loaded.conn.execute("DELETE FROM protheon.task WHERE id = %s", (task_id,))
    assert any("2 chunks in the ledger, its source has 3" in finding for finding in findings(loaded))


def test_a_chunk_that_succeeded_twice_is_found(loaded: Bench) -> None:
    loaded.conn.execute(
        """INSERT INTO protheon.attempt
                  (task_id, attempt_no, token, run_id, process_uuid, worker, host, started_at, ended_at, outcome, cost, lines, loaded)
           SELECT task_id, 2, gen_random_uuid(), run_id, process_uuid, worker, host, now(), now(), 'succeeded', 'nothing', lines, loaded
             FROM protheon.attempt WHERE task_id = %s""",
        (loaded.task_ids[0],),
    )
    [finding] = findings(loaded)
    assert "chunk 1 of load" in finding
    assert "2 attempts succeeded where one must" in finding


def test_a_chunk_whose_success_nobody_had_is_found(loaded: Bench) -> None:
    loaded.conn.execute(
        "UPDATE protheon.attempt SET outcome = 'released', loaded = 0, filtered = 0, rejected = 0, blank = 0 WHERE task_id = %s",
        (loaded.task_ids[0],),
    )
    assert any("0 attempts succeeded where one must" in finding for finding in findings(loaded))


def test_a_lost_reject_is_found(loaded: Bench) -> None:
    loaded.conn.execute("DELETE FROM protheon.reject")
    verified = api.verify_run(loaded.url, loaded.run_id)
    [finding] = verified.findings
    assert verified.differs == {"each rejected line is kept": (finding,)}
    assert "chunk 3 of load" in finding
    assert "1 line was rejected, 0 kept" in finding


def test_a_reject_too_many_is_found(loaded: Bench) -> None:
    loaded.conn.execute(
        "INSERT INTO protheon.reject (load_id, task_id, attempt_no, line, byte_offset, part, reason, raw, raw_bytes)"
        " SELECT load_id, task_id, attempt_no, line, byte_offset, 'a part', reason, raw, raw_bytes FROM protheon.reject"
    )
    [finding] = findings(loaded)
    assert "chunk 3" in finding


def test_lines_that_are_not_accounted_for_are_found(loaded: Bench) -> None:
    with loaded.conn.transaction():
        loaded.conn.execute("UPDATE protheon.attempt SET lines = 9, loaded = 9 WHERE task_id = %s", (loaded.task_ids[0],))
    [finding] = findings(loaded)
    assert "9 of 10 lines are accounted for" in finding


def test_rows_that_do_not_add_up_are_found(loaded: Bench) -> None:
    """The schema refuses such counts, so that a ledger that has them was changed by hand."""
    loaded.conn.execute("ALTER TABLE protheon.table_count DROP CONSTRAINT rows_are_accounted_for")
    loaded.conn.execute("UPDATE protheon.table_count SET inserted = inserted - 1 WHERE task_id = %s", (loaded.task_ids[0],))
    [finding] = findings(loaded)
    assert "table public.numbers: 10 rows were offered, 9 are accounted for" in finding


@pytest.mark.parametrize(
    ("state", "told"),
    [("ready", "1 chunk is ready"), ("cancelled", "1 chunk is cancelled"), ("dead", "1 chunk is dead")],
)
def test_a_chunk_that_is_not_loaded_is_found(loaded: Bench, state: str, told: str) -> None:
    loaded.conn.execute("UPDATE protheon.task SET state = %s WHERE id = %s", (state, loaded.task_ids[1]))
    assert any(told in finding for finding in findings(loaded))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("split_state = 'pending', n_chunks = NULL", "it is not cut yet"),
        ("split_state = 'splitting', n_chunks = NULL", "it is still being cut"),
        ("split_state = 'damaged', split_message = 'truncated (stored byte 7)'", "truncated (stored byte 7)"),
        ("split_state = 'changed', n_chunks = NULL, split_message = 'changed while read'", "changed while read"),
    ],
)
def test_a_source_that_was_not_cut_to_its_end_is_found(loaded: Bench, change: str, told: str) -> None:
    loaded.conn.execute(f"UPDATE protheon.load SET finished_at = NULL, {change}".encode())
    assert any(told in finding for finding in findings(loaded))


def test_attempts_before_the_one_that_succeeded_are_no_finding(bench: Bench) -> None:
    bench.submit(LINES)
    worker = bench.worker()
    claimed = worker._claim(bench.dispatch(0), uuid4())
    assert claimed is not None
    bench.expire(0)
    assert bench.load_all(worker) == ["succeeded"] * 3
    assert [ending[1] for ending in bench.endings(0)] == ["expired", "succeeded"]
    assert findings(bench) == []


def test_a_replay_has_a_name_for_people_in_the_place_of_its_spools_path(bench: Bench) -> None:
    bench.submit("1\n")
    first = (bench.run_id, bench.load_id)
    bench.submit("2\n", body="raise MemoryError")
    assert bench.load_all(bench.worker()) != ["succeeded"]
    bench.conn.execute("UPDATE protheon.load SET replay_of = %s, split_message = 'is gone' WHERE id = %s", (first[1], bench.load_id))
    bench.conn.execute("UPDATE protheon.load SET split_state = 'damaged' WHERE id = %s", (bench.load_id,))
    bench.conn.execute("UPDATE protheon.task SET state = 'dead' WHERE load_id = %s", (bench.load_id,))
    bench.conn.execute(
        "INSERT INTO protheon.dead_letter (task_id, attempt_no, reason, died_at) VALUES (%s, 1, 'x', now())", (bench.task_ids[0],)
    )
    name = f"rejects of run {first[0]}"
    assert f"file {name}: is gone" in findings(bench)
    assert [row["path"] for row in api.report(bench.url, "dead_letters", bench.run_id)] == [name]
    [messages] = [run.messages for run in runs.open_runs(bench.conn) if run.run_id == bench.run_id]
    assert list(messages) == [f"{name}: is gone"]
