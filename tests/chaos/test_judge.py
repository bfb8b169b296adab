"""The campaign must be able to fail: what a fault could do is done to the database and the workspace, and the judge must name it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from tests.chaos import material, oracle
from tests.chaos.judge import Interval, Verdict, events_in, judge, judge_on
from tests.chaos.material import Expected
from tests.chaos.note_client import make_table, write_notes
from tests.fixtures.cluster import finish, load, local_cluster
from tests.fixtures.postgres import fresh_database

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PIPELINE = f"{HERE / 'campaign_pipeline.py'}:campaign"
OUTSIDE = ("material", "oracle", "findings", "judge", "judge_rows", "judge_ledger")
"""Modules that must not share a mistake with the product."""


@dataclass(frozen=True)
class Campaign:
    """Material that was loaded without any fault; its cluster has ended."""

    url: str
    workspace: Path
    expected: Expected

    def judge_after(self, *statements: str, evidence: tuple[Interval, ...] = ()) -> Verdict:
        """The verdict on what these statements leave; they are rolled back. Of several rows that one could take they take any."""
        with psycopg.connect(self.url) as conn:
            for statement in statements:
                done = conn.execute(statement.encode())
                assert done.rowcount != 0, f"this changed nothing: {statement}"
            verdict = judge_on(conn, self.workspace, self.expected, evidence)
            conn.rollback()
        return verdict


@pytest.fixture(scope="module")
def campaign(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    directory = tmp_path_factory.mktemp("campaign")
    made = material.make(directory / "sources", seed=5, n_sources=4, n_chunks=5, chunk_lines=60, pad_bytes=20)
    expected = made.with_notes(material.make_notes(8, seed=5))
    with fresh_database(postgres_url) as url:
        make_table(url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))  # where workers find the task's function
            with local_cluster(directory / "home", url) as cluster:
                run_id = load(cluster, PIPELINE, *map(Path, made.paths), chunk_lines=made.chunk_lines)
                assert write_notes(cluster.client, expected.notes)
                assert str(finish(cluster, run_id).state) == "succeeded"
        yield Campaign(url, directory / "home" / "workspace", expected)


def test_a_load_without_a_fault_is_judged_clean(campaign: Campaign) -> None:
    verdict = judge(campaign.url, campaign.workspace, campaign.expected, [])
    assert verdict.problems == []
    assert (verdict.lost, verdict.doubled, verdict.wrong, verdict.expired) == (0, 0, 0, 0)
    assert verdict.is_clean
    assert verdict.n_chunks == 20


# --- rows -----------------------------------------------------------------------------------------------------------------

ONE_EVENT = "(SELECT min(ctid) FROM campaign.events WHERE pad <> '' AND id < 8000000000000000)"
TWIN = "(SELECT id FROM campaign.events WHERE child = 0 AND id > 9000000000000000 GROUP BY id HAVING count(*) > 2 LIMIT 1)"
ROWS = {
    "a lost row": ([f"DELETE FROM campaign.events WHERE ctid = {ONE_EVENT}"], "lost: events: .* is there 0 times and must be 1 times"),
    "a doubled row": (
        [f"INSERT INTO campaign.events SELECT * FROM campaign.events WHERE ctid = {ONE_EVENT}"],
        "doubled: events: .* 2 times",
    ),
    "a changed row": ([f"UPDATE campaign.events SET pad = 'x' WHERE ctid = {ONE_EVENT}"], "wrong: events: .*'x'. is there and must be"),
    "a foreign row": (["INSERT INTO campaign.events VALUES (7, 0, 'w', '')"], "wrong: events: .* is no row of the material"),
    "one of many rows that look alike": (
        [f"DELETE FROM campaign.events WHERE ctid = (SELECT min(ctid) FROM campaign.events WHERE id = {TWIN})"],
        r"lost: events: .* is there [2-9] times and must be [3-9] times",
    ),
    "a row of an identical chunk too many": (
        [f"INSERT INTO campaign.events SELECT * FROM campaign.events WHERE id = {TWIN} LIMIT 1"],
        "doubled: events",
    ),
    "a lost key": (["DELETE FROM campaign.keyed WHERE key = (SELECT min(key) FROM campaign.keyed WHERE key ~ '^own')"], "lost: keyed"),
    "a contested key that nobody has": (
        [
            "DELETE FROM campaign.events WHERE id = (SELECT min(id) FROM campaign.keyed WHERE key ~ '^contested')",
            "DELETE FROM campaign.keyed WHERE id = (SELECT min(id) FROM campaign.keyed WHERE key ~ '^contested')",
        ],
        "lost: keyed",
    ),
    "a line in one of its tables only": (
        ["DELETE FROM campaign.keyed WHERE key = (SELECT min(key) FROM campaign.keyed WHERE key ~ '^contested')"],
        "lost: keyed",
    ),
    "a lost first": (["DELETE FROM campaign.firsts WHERE key = 'refrain'"], "lost: firsts: no row has the key 'refrain'"),
    "a first of no candidate": (["UPDATE campaign.firsts SET id = 3 WHERE key = 'refrain'"], "wrong: firsts: .* must be"),
    "a first made of two lines": (
        ["UPDATE campaign.firsts SET word = (SELECT max(word) FROM campaign.keyed WHERE word ~ '^[0-9]') WHERE key = 'refrain'"],
        "wrong: firsts",
    ),
    "an older latest": (["UPDATE campaign.latest SET at = at - 1 WHERE key = (SELECT min(key) FROM campaign.latest)"], "wrong: latest"),
    "a lost latest": (["DELETE FROM campaign.latest WHERE key = (SELECT min(key) FROM campaign.latest)"], "lost: latest"),
    "a foreign latest": (["INSERT INTO campaign.latest VALUES ('x', 1, 1, 'w')"], "wrong: latest: .* must be no row"),
    "a total with one line too many": (
        ["UPDATE campaign.totals SET n = n + 1, lines = lines + 1 WHERE key = 't0'"],
        "doubled: totals: 't0'",
    ),
    "a total with one line too few": (["UPDATE campaign.totals SET n = n - 1, lines = lines - 1 WHERE key = 't0'"], "lost: totals: 't0'"),
    "a total that is off by one": (["UPDATE campaign.totals SET n = n + 1 WHERE key = 't1'"], "wrong: totals: 't1'"),
    "a lost total": (["DELETE FROM campaign.totals WHERE key = 'refrain'"], "lost: totals"),
    "a lost note": (["DELETE FROM campaign.notes WHERE no = 3"], "lost: notes: .*3"),
    "a doubled note": (["INSERT INTO campaign.notes SELECT * FROM campaign.notes WHERE no = 3"], "doubled: notes"),
    "a note with another's text": (["UPDATE campaign.notes SET text = 'x' WHERE no = 3"], "wrong: notes: .* must be"),
    "a note's result that is not its own": (
        ["UPDATE protheon.task SET result = '{}' WHERE request_id = 'note-3'"],
        "wrong: notes: .*note-3. has the result",
    ),
    "a lost reject": (["DELETE FROM protheon.reject WHERE id = (SELECT min(id) FROM protheon.reject)"], "lost: rejects"),
    "a doubled reject": (
        [
            "INSERT INTO protheon.reject (load_id, task_id, attempt_no, line, byte_offset, part, reason, sqlstate, raw, raw_bytes) "
            "SELECT load_id, task_id, attempt_no, line, byte_offset, part, reason, sqlstate, raw, raw_bytes FROM protheon.reject LIMIT 1"
        ],
        "doubled: rejects: .* is refused 2 times",
    ),
    "a reject with another's reason": (
        ["UPDATE protheon.reject SET reason = 'because' WHERE id = (SELECT min(id) FROM protheon.reject WHERE sqlstate IS NULL)"],
        "wrong: rejects: .* 'because' and must be",
    ),
    "a loaded line that is refused as there": (
        [
            "UPDATE protheon.reject SET sqlstate = '23505', part = NULL, line = 1 "
            "WHERE id = (SELECT min(id) FROM protheon.reject WHERE sqlstate IS DISTINCT FROM '23505')"
        ],
        "doubled: rejects: .* it was loaded before",
    ),
    "a reject of an attempt that did not succeed": (
        ["UPDATE protheon.reject SET attempt_no = 9 WHERE id = (SELECT min(id) FROM protheon.reject)"],
        "wrong: rejects: .* attempt 9 of task",
    ),
}


@pytest.mark.parametrize(("statements", "named"), ROWS.values(), ids=ROWS)
def test_the_judge_names_what_is_done_to_rows(campaign: Campaign, statements: list[str], named: str) -> None:
    verdict = campaign.judge_after(*statements)
    assert any(re.match(named, problem) for problem in verdict.problems), verdict.problems
    kind = named.partition(":")[0]
    assert {"lost": verdict.lost, "doubled": verdict.doubled, "wrong": verdict.wrong}[kind] > 0
    assert not verdict.is_clean


# --- the ledger -------------------------------------------------------------------------------------------------------------

TASK = "(SELECT min(task_id) FROM protheon.chunk WHERE chunk_no = 1)"
SECOND = (
    "INSERT INTO protheon.attempt "
    "(task_id, attempt_no, token, process_uuid, worker, host, started_at, ended_at, outcome, cost, lines, blank) "
    f"SELECT task_id, 2, gen_random_uuid(), process_uuid, worker, host, {{}}, {{}}, {{}}, {{}}, lines, {{}} "
    f"FROM protheon.attempt WHERE task_id = {TASK}"
)
LATER, LATER_STILL = "ended_at + interval '1 s'", "ended_at + interval '2 s'"
MOVED = f"UPDATE protheon.task SET attempt_no = 2 WHERE id = {TASK}"
CHARGED = "UPDATE protheon.task SET {} = 1 WHERE id = " + TASK
EVENTS_OF_TASK = f"task_id = {TASK} AND table_name ~ 'events'"
UNBOUND = "ALTER TABLE protheon.attempt DROP CONSTRAINT lines_are_accounted_for"
LEDGER = {
    "an open attempt": ([SECOND.format(LATER, "NULL", "NULL", "NULL", 0)], r"attempts: task \d+: attempt 2 is open"),
    "a gap in the numbers of attempts": ([MOVED], r"attempts: task \d+ has the attempts \[1\] and is at number 2"),
    "a second success": (
        [SECOND.format(LATER, LATER_STILL, "'succeeded'", "'nothing'", "lines"), MOVED],
        r"attempts \[1, 2\] all succeeded",
    ),
    "an attempt after the success": (
        [SECOND.format(LATER, LATER_STILL, "'released'", "'nothing'", 0), MOVED],
        r"succeeded; attempts that did are \[1\], and the last one is 2",
    ),
    "two owners at a time": (
        [SECOND.format("started_at", LATER_STILL, "'succeeded'", "'nothing'", "lines"), MOVED],
        "attempt 2 began before 1 had ended",
    ),
    "a charge that no attempt has": ([CHARGED.format("losses")], r"charges: task \d+ is charged 1 losses, its attempts 0,"),
    "a charge that is forgotten": (
        [f"UPDATE protheon.attempt SET cost = 'loss' WHERE task_id = {TASK}"],
        r"charges: task \d+ is charged 0 losses, its attempts 1, 0 of them given back",
    ),
    "a loss without a fault": (
        [f"UPDATE protheon.attempt SET cost = 'loss' WHERE task_id = {TASK}", CHARGED.format("losses")],
        "was charged a loss and no fault hit it",
    ),
    "a failure": (
        [f"UPDATE protheon.attempt SET cost = 'failure' WHERE task_id = {TASK}", CHARGED.format("failures")],
        "was charged a failure and no fault hit it",
    ),
    "an attempt that was expired while it lived": (
        [SECOND.format(LATER, LATER_STILL, "'expired'", "'nothing'", 0), MOVED],
        "was expired while it was alive and made progress",
    ),
    "a failure of a note that was not to fail": (
        [
            "UPDATE protheon.attempt SET cost = 'failure' FROM protheon.task WHERE task.id = task_id AND request_id = 'note-3'",
            "UPDATE protheon.task SET failures = 1 WHERE request_id = 'note-3'",
        ],
        "was charged a failure and no fault hit it",
    ),
    "a note with two tasks": (
        ["UPDATE protheon.task SET request_id = 'note-33' WHERE request_id = 'note-3'"],
        "notes: note-3 has 0 tasks and must have one",
    ),
    "a task that is ready": ([f"UPDATE protheon.task SET state = 'ready' WHERE id = {TASK}"], r"tasks: task \d+ \(ingest\) is ready"),
    "a dead task": (
        [
            f"UPDATE protheon.task SET state = 'dead' WHERE id = {TASK}",
            f"INSERT INTO protheon.dead_letter (task_id, attempt_no, reason, died_at) VALUES ({TASK}, 1, 'lost 20 times', now())",
        ],
        r"dead letters: task \d+: lost 20 times",
    ),
    "lines that do not add up": (
        [UNBOUND, f"UPDATE protheon.attempt SET blank = blank + 1 WHERE task_id = {TASK}"],
        "lines: .*: 61 of 60 lines are accounted for",
    ),
    "lines that add up to the wrong sums": (
        [f"UPDATE protheon.attempt SET blank = blank + 1, loaded = loaded - 1 WHERE task_id = {TASK}"],
        r"lines: .*parts\) are .* and must be",
    ),
    "rows that do not add up": (
        [
            "ALTER TABLE protheon.table_count DROP CONSTRAINT rows_are_accounted_for",
            f"UPDATE protheon.table_count SET offered = offered + 1 WHERE task_id = {TASK}",
        ],
        "rows: .* were offered",
    ),
    "rows that add up to the wrong sums": (
        [f"UPDATE protheon.table_count SET offered = offered + 1, inserted = inserted + 1 WHERE {EVENTS_OF_TASK}"],
        r"rows: .* offered .* and must offer",
    ),
    "rows counted as inserted that were ignored": (
        [f"UPDATE protheon.table_count SET inserted = inserted - 1, ignored = ignored + 1 WHERE {EVENTS_OF_TASK}"],
        "rows: events: by the ledger .* rows were inserted",
    ),
    "a chunk cut elsewhere": (
        [f"UPDATE protheon.chunk SET first_line = 2 WHERE task_id = {TASK}"],
        "chunks: .*:2 is a chunk and must not be one",
    ),
    "a chunk of other bytes": ([f"UPDATE protheon.chunk SET raw_bytes = raw_bytes + 1 WHERE task_id = {TASK}"], "chunks: .* and must have"),
    "a load with another number of chunks": (
        ["UPDATE protheon.load SET n_chunks = 4 WHERE id = 1"],
        "loads: .* has 4 chunks and must have 5",
    ),
    "a load that is not finished": (["UPDATE protheon.load SET finished_at = NULL WHERE id = 1"], "loads: .* is not finished"),
    "a load that is gone": (["UPDATE protheon.load SET retired_at = now() WHERE id = 1"], "loads: .* has 0 loads and must have one"),
    "a run that goes on": (["UPDATE protheon.run SET state = 'running', ended_at = NULL"], "runs: run 1 is running"),
    "a transaction that is left open": (
        [f"SELECT pg_advisory_xact_lock((5263951::bigint << 40) | {TASK})"],
        "locks: backend .* has a data transaction",
    ),
}


@pytest.mark.parametrize(("statements", "named"), LEDGER.values(), ids=LEDGER)
def test_the_judge_names_what_is_done_to_the_ledger(campaign: Campaign, statements: list[str], named: str) -> None:
    verdict = campaign.judge_after(*statements)
    assert any(re.search(named, problem) for problem in verdict.problems), verdict.problems
    assert not verdict.is_clean


def test_a_file_that_is_left_is_named(campaign: Campaign) -> None:
    left = campaign.workspace / "a-ledger" / "1" / "000000000001.1.zst"
    left.parent.mkdir(parents=True)
    left.touch()
    try:
        [problem] = judge(campaign.url, campaign.workspace, campaign.expected, []).problems
    finally:
        left.unlink()
    assert problem == "broken: workspace: a-ledger/1/000000000001.1.zst is left"


def test_a_workspace_that_is_not_there_is_no_empty_one(campaign: Campaign, tmp_path: Path) -> None:
    [problem] = judge(campaign.url, tmp_path / "elsewhere", campaign.expected, []).problems
    assert "is not there" in problem


def test_a_material_that_was_not_loaded_is_lost(campaign: Campaign, tmp_path: Path) -> None:
    more = material.make(tmp_path, seed=6, n_sources=1, n_chunks=2, chunk_lines=60, pad_bytes=20, first_source_no=50)
    verdict = judge(campaign.url, campaign.workspace, campaign.expected.plus(more), [])
    assert verdict.lost > 60
    assert verdict.doubled == 0


# --- charges and their evidence ---------------------------------------------------------------------------------------------

LOST_ONCE = (
    "UPDATE protheon.attempt SET started_at = to_timestamp(100), ended_at = to_timestamp(120), outcome = 'expired', cost = 'loss', "
    "loaded = 0, filtered = 0, rejected = 0, blank = 0 WHERE task_id = " + TASK,
    CHARGED.format("losses"),
)
WORKER = "w-0"
NAMED = f"UPDATE protheon.attempt SET worker = '{WORKER}', host = 'a-host' WHERE task_id = {TASK}"


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval("frozen", 90, 118, (WORKER,)), None),
        (Interval("host killed", 110, 111, ("a-host",)), None),
        (Interval("cut off", 110, 111, ("*",)), None),
        (Interval("frozen", 90, 97, (WORKER,)), None),  # its effects come within the grace
        (Interval("frozen", 50, 60, (WORKER,)), "was expired while it was alive"),
        (Interval("frozen", 121, 130, (WORKER,)), "was expired while it was alive"),
        (Interval("frozen", 90, 118, ("w-1",)), r"was charged a loss for an outage \(frozen\)"),
        (Interval("PostgreSQL stopped", 90, 118), r"was charged a loss for an outage \(PostgreSQL stopped\)"),
        (Interval("killed", 90, 118, (WORKER,), frozenset({"crash"})), "was charged a loss for an outage"),
    ],
)
def test_a_charge_is_explained_by_a_fault_of_that_process_alone(campaign: Campaign, interval: Interval, said: str | None) -> None:
    verdict = campaign.judge_after(NAMED, *LOST_ONCE, evidence=(interval,))
    charges = [problem for problem in verdict.problems if problem.startswith("broken: charges")]
    assert [bool(re.search(said, charge)) for charge in charges] == [True] if said else charges == []
    assert verdict.expired == 1


# --- what the judge stands on -----------------------------------------------------------------------------------------------


def test_the_material_has_what_the_campaign_is_to_meet(campaign: Campaign) -> None:
    expected = campaign.expected
    chunks: Counter[bytes] = Counter()
    places: dict[bytes, set[str]] = {}
    lines: Counter[bytes] = Counter()
    for source in expected.sources:
        text = material.plain_of(source).splitlines(keepends=True)
        lines.update(text)
        for start in range(0, len(text), expected.chunk_lines):
            block = b"".join(text[start : start + expected.chunk_lines])
            chunks[block] += 1
            places.setdefault(block, set()).add(source.name)
    assert any(n > len(places[block]) for block, n in chunks.items())  # identical chunks in one source
    assert any(len(found) > 1 for found in places.values())  # and in two
    assert lines.most_common(1)[0][1] > 10
    answer = oracle.answer(expected)
    assert answer.contested
    assert any(len({line.source for line in group}) > 1 for group in answer.contested.values())
    assert any(len(rows) > 1 for rows in answer.latest.values())
    assert any(len(rows) > 1 for rows in answer.firsts.values())
    assert {refusal.why for refusal in answer.refusals} == set(oracle.Why) - {oracle.Why.TAKEN}
    assert all(sum(getattr(chunk, ending) for chunk in answer.chunks.values()) for ending in ("filtered", "blank", "parts"))


def test_the_same_seed_writes_the_same_lines(campaign: Campaign, tmp_path: Path) -> None:
    again = material.make(tmp_path, seed=5, n_sources=4, n_chunks=5, chunk_lines=60, pad_bytes=20)
    assert [source.sha256 for source in again.sources] == [source.sha256 for source in campaign.expected.sources]


def test_what_is_expected_survives_its_file(campaign: Campaign, tmp_path: Path) -> None:
    expected = replace(campaign.expected, dead_chunks=(("source-0001.jsonl.gz", 61),), notes=(material.Note(1, "a"),))
    expected.save(tmp_path / "expected.json")
    assert Expected.load(tmp_path / "expected.json") == expected


def test_a_source_that_is_not_the_written_one_has_no_answer(tmp_path: Path) -> None:
    made = material.make(tmp_path, seed=1, n_sources=1, n_chunks=1, chunk_lines=10, pad_bytes=0)
    (changed,) = (replace(source, sha256="0" * 64) for source in made.sources)
    with pytest.raises(ValueError, match="is not the file that the campaign wrote"):
        oracle.answer(replace(made, sources=(changed,)))


def test_the_logs_tell_how_often_a_stale_write_was_refused(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(
        "x WARNING y fence.refused task_id=1\nx INFO y commit.resolved task_id=2\nnot fence.refusedly\nx WARNING y fence.refused\n"
    )
    assert events_in([log]) == {"fence.refused": 2, "commit.resolved": 1}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_judges_the_product_imports_nothing_of_it(name: str) -> None:
    tree = ast.parse((HERE / f"{name}.py").read_text())
    roots = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in modules if module.startswith("tests")}
    assert "protheon_dask" not in roots | {module.partition(".")[0] for module in modules}
    assert ours <= {"tests.chaos"} | {f"tests.chaos.{other}" for other in OUTSIDE}
    assert all(node.level == 0 for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
