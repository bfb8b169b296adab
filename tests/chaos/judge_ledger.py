"""Look at the ledger and the workspace by queries of one's own: what must hold once all runs have ended. Imports nothing of the product."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from tests.chaos.findings import Findings, Kind
from tests.chaos.material import Expected
from tests.chaos.oracle import TABLES, Answer

LOADS: LiteralString = """
SELECT id, path, split_state, split_message, n_chunks, finished_at IS NOT NULL AS is_finished,
       EXISTS (SELECT FROM protheon.run_load WHERE load_id = load.id AND joined = 'resumed') AS was_resumed
  FROM protheon.load WHERE retired_at IS NULL AND replay_of IS NULL ORDER BY id
"""
CHUNKS: LiteralString = """
SELECT task.id, load.path, chunk.chunk_no, chunk.first_line, chunk.n_lines, chunk.byte_offset, chunk.raw_bytes, task.state,
       won.attempt_no AS won_no, won.lines, won.loaded, won.filtered, won.rejected, won.blank, won.rejected_parts
  FROM protheon.chunk JOIN protheon.task ON task.id = chunk.task_id JOIN protheon.load ON load.id = chunk.load_id
  LEFT JOIN protheon.attempt AS won ON won.task_id = task.id AND won.attempt_no = task.attempt_no AND won.outcome = 'succeeded'
 WHERE load.retired_at IS NULL AND load.replay_of IS NULL ORDER BY load.id, chunk.first_line
"""
TASKS: LiteralString = """
SELECT task.id, task.handler, task.state, task.attempt_no, task.failures, task.crashes, task.losses, task.request_id, task.result,
       EXISTS (SELECT FROM protheon.dead_letter WHERE task_id = task.id AND replayed_at IS NOT NULL)
       OR EXISTS (SELECT FROM protheon.run_load WHERE load_id = task.load_id AND joined = 'resumed') AS began_anew
  FROM protheon.task ORDER BY id
"""
ATTEMPTS: LiteralString = """
SELECT task_id, attempt_no, worker, host, outcome, cost, given_back, message, started_at, ended_at,
       extract(epoch FROM started_at)::float8 AS started_s, extract(epoch FROM ended_at)::float8 AS ended_s
  FROM protheon.attempt ORDER BY task_id, attempt_no
"""
COUNTS: LiteralString = """
SELECT task_id, attempt_no, table_name, offered, inserted, updated, ignored FROM protheon.table_count
"""
OPEN_LETTERS: LiteralString = """
SELECT task_id, reason FROM protheon.dead_letter WHERE replayed_at IS NULL ORDER BY task_id
"""
RUNS: LiteralString = "SELECT id, state, state_reason FROM protheon.run ORDER BY id"
STALE_REJECTS: LiteralString = """
SELECT reject.task_id, reject.attempt_no, count(*) AS n FROM protheon.reject
 WHERE NOT EXISTS (SELECT FROM protheon.attempt WHERE attempt.task_id = reject.task_id AND attempt.attempt_no = reject.attempt_no
                                                  AND attempt.outcome = 'succeeded')
   AND NOT EXISTS (SELECT FROM protheon.chunk WHERE chunk.task_id = reject.task_id AND chunk.oversized)
 GROUP BY 1, 2 ORDER BY 1, 2
"""
DEAD_CHUNKS: LiteralString = """
SELECT chunk.load_id, chunk.first_line FROM protheon.chunk JOIN protheon.task ON task.id = chunk.task_id WHERE task.state = 'dead'
"""
LOCKS: LiteralString = """
SELECT pid, objid::bigint AS task_id FROM pg_catalog.pg_locks
 WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint = 5263951 * 256
   AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""  # one-integer locks of 0x50524F << 40 | task id: a data transaction is open


@dataclass(frozen=True, slots=True)
class Interval:
    """A time in which a fault may have kept processes from their work, as the campaign's log has it.

    from_at, until_at: seconds since 1970, by the clock of the database's host.
    workers: names of workers, or hosts, whose process was killed, frozen or cut off from PostgreSQL; "*" is all of them. Empty: an outage
             of a service, which explains no charge.
    costs:   what it may have cost their attempts.
    """

    kind: str
    from_at: float
    until_at: float
    workers: tuple[str, ...] = ()
    costs: frozenset[str] = frozenset({"crash", "loss"})

    def meets(self, started_at: float, ended_at: float, grace_s: float) -> bool:
        return started_at <= self.until_at + grace_s and ended_at >= self.from_at

    def hits(self, worker: str, host: str) -> bool:
        return bool({worker, host, "*"} & set(self.workers))


def judge_ledger(
    conn: psycopg.Connection[Any], answer: Answer, expected: Expected, evidence: Sequence[Interval], grace_s: float, found: Findings
) -> int:
    """Look at loads, chunks, tasks, attempts, counts and locks; return how many attempts expired. Contested lines are settled."""
    look = conn.cursor(row_factory=dict_row)
    tasks = {row["id"]: row for row in look.execute(TASKS)}
    attempts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in look.execute(ATTEMPTS):
        attempts[row["task_id"]].append(row)
    chunks = look.execute(CHUNKS).fetchall()
    _judge_loads(look, expected, found)
    _judge_chunks(chunks, answer, expected, found)
    _judge_counts(look, chunks, answer, found)
    _judge_tasks(look, chunks, tasks, attempts, expected, found)
    _judge_notes(tasks, answer, found)
    fails = {note.request_id: note.fails for note in expected.notes}
    for task_id, story in attempts.items():
        _judge_story(tasks[task_id], story, found)
        for attempt in story:
            if attempt["cost"] != "failure" or attempt["attempt_no"] > fails.get(tasks[task_id]["request_id"], 0):
                _judge_charge(attempt, evidence, grace_s, found)
    for row in look.execute(RUNS):
        if row["state"] not in ("succeeded", "cancelled") and not (row["state"] == "incomplete" and expected.dead_chunks):
            found.add(Kind.BROKEN, "runs", f"run {row['id']} is {row['state']}: {row['state_reason']}")
    for row in look.execute(STALE_REJECTS):
        found.add(Kind.WRONG, "rejects", f"{row['n']} are of attempt {row['attempt_no']} of task {row['task_id']}, which did not succeed")
    for row in look.execute(LOCKS):
        found.add(Kind.BROKEN, "locks", f"backend {row['pid']} still has a data transaction of task {row['task_id']} open")
    return sum(attempt["outcome"] == "expired" for story in attempts.values() for attempt in story)


def _judge_loads(look: psycopg.Cursor[dict[str, Any]], expected: Expected, found: Findings) -> None:
    """Each source has one load, which is whole and finished."""
    sources = {source.name: source for source in expected.sources}
    with_dead = {name for name, _ in expected.dead_chunks}
    seen: Counter[str] = Counter()
    for row in look.execute(LOADS):
        name = Path(row["path"]).name
        seen[name] += 1
        if (source := sources.get(name)) is None:
            found.add(Kind.BROKEN, "loads", f"load {row['id']} of {row['path']} is no part of the material")
            continue
        if row["split_state"] != "complete":
            found.add(Kind.BROKEN, "loads", f"{name} is {row['split_state']}: {row['split_message']}")
        if row["n_chunks"] is not None and row["n_chunks"] != source.n_chunks:
            found.add(Kind.BROKEN, "loads", f"{name} has {row['n_chunks']} chunks and must have {source.n_chunks}")
        if not row["is_finished"] and name not in with_dead:
            found.add(Kind.BROKEN, "loads", f"{name} is not finished")
    for name in sources:
        if seen[name] != 1:
            found.add(Kind.BROKEN, "loads", f"{name} has {seen[name]} loads and must have one")


def _judge_chunks(chunks: list[dict[str, Any]], answer: Answer, expected: Expected, found: Findings) -> None:
    """Each chunk as it must be cut, once, and its lines where they must have gone: loaded + filtered + rejected + blank = lines."""
    seen: Counter[tuple[str, int]] = Counter()
    next_byte: Counter[str] = Counter()
    for row in chunks:
        key = (Path(row["path"]).name, row["first_line"])
        name = f"{key[0]}:{key[1]}"
        seen[key] += 1
        if (meant := answer.chunks.get(key)) is None:
            found.add(Kind.BROKEN, "chunks", f"{name} is a chunk and must not be one")
            continue
        if (row["n_lines"], row["raw_bytes"], row["byte_offset"]) != (meant.n_lines, meant.raw_bytes, next_byte[key[0]]):
            found.add(
                Kind.BROKEN,
                "chunks",
                f"{name} has {row['n_lines']} lines, {row['raw_bytes']} bytes from {row['byte_offset']} "
                f"and must have {meant.n_lines}, {meant.raw_bytes}, from {next_byte[key[0]]}",
            )
        next_byte[key[0]] += meant.raw_bytes
        if row["won_no"] is None:
            if key not in expected.dead_chunks:
                found.add(Kind.BROKEN, "chunks", f"{name} is {row['state']}: no attempt of it succeeded")
            continue
        accounted = row["loaded"] + row["filtered"] + row["rejected"] + row["blank"]
        if not accounted == row["lines"] == row["n_lines"]:
            found.add(Kind.BROKEN, "lines", f"{name}: {accounted} of {row['n_lines']} lines are accounted for")
        counted = (row["loaded"], row["filtered"], row["rejected"], row["blank"], row["rejected_parts"])
        wanted = (meant.loaded, meant.filtered, meant.rejected, meant.blank, meant.parts)
        if counted != wanted:
            found.add(Kind.BROKEN, "lines", f"{name}: (loaded, filtered, rejected, blank, parts) are {counted} and must be {wanted}")
    for key in answer.chunks:
        if seen[key] != 1:
            found.add(Kind.BROKEN, "chunks", f"{key[0]}:{key[1]} is there {seen[key]} times and must be once")


def _judge_counts(look: psycopg.Cursor[dict[str, Any]], chunks: list[dict[str, Any]], answer: Answer, found: Findings) -> None:
    """Rows offered = inserted + updated + ignored; offered as the oracle has them; inserted as many as the tables have."""
    won = {(row["id"], row["won_no"]): (Path(row["path"]).name, row["first_line"]) for row in chunks if row["won_no"] is not None}
    inserted: Counter[str] = Counter()
    offered: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for row in look.execute(COUNTS):
        table = row["table_name"].removeprefix("campaign.")
        name = f"{table}, attempt {row['attempt_no']} of task {row['task_id']}"
        if row["offered"] != row["inserted"] + row["updated"] + row["ignored"]:
            found.add(
                Kind.BROKEN, "rows", f"{name}: {row['offered']} were offered, {row['inserted']} + {row['updated']} + {row['ignored']} stand"
            )
        if (key := won.get((row["task_id"], row["attempt_no"]))) is None:
            found.add(Kind.BROKEN, "rows", f"{name}: it did not succeed and has counts")
            continue
        inserted[table] += row["inserted"]
        offered[key][table] += row["offered"]
    for key in won.values():
        meant = answer.chunks[key].offered if key in answer.chunks else Counter()
        if +offered[key] != +meant:
            found.add(Kind.BROKEN, "rows", f"{key[0]}:{key[1]} offered {dict(+offered[key])} and must offer {dict(+meant)}")
    n_rows = answer.n_rows()
    for table in TABLES:
        if inserted[table] != n_rows[table]:
            found.add(Kind.BROKEN, "rows", f"{table}: by the ledger {inserted[table]} rows were inserted, and {n_rows[table]} must be")


def _judge_tasks(
    look: psycopg.Cursor[dict[str, Any]],
    chunks: list[dict[str, Any]],
    tasks: dict[int, dict[str, Any]],
    attempts: dict[int, list[dict[str, Any]]],
    expected: Expected,
    found: Findings,
) -> None:
    """Nothing is under way, nothing is dead that was not meant to be, and the charges are those of the attempts."""
    meant_dead = {row["id"] for row in chunks if (Path(row["path"]).name, row["first_line"]) in expected.dead_chunks}
    for task_id, task in tasks.items():
        if task["state"] != ("dead" if task_id in meant_dead else "succeeded"):
            found.add(Kind.BROKEN, "tasks", f"task {task_id} ({task['handler']}) is {task['state']} after {task['attempt_no']} attempts")
        for cost, column in (("failure", "failures"), ("crash", "crashes"), ("loss", "losses")):
            charged = [attempt["given_back"] for attempt in attempts.get(task_id, []) if attempt["cost"] == cost]
            most = len(charged) if task["state"] == "succeeded" else charged.count(False)  # what comes too late is noted there alone
            if not (0 if task["began_anew"] else charged.count(False)) <= task[column] <= most:
                said = f"its attempts {len(charged)}, {charged.count(True)} of them given back"
                found.add(Kind.BROKEN, "charges", f"task {task_id} is charged {task[column]} {column}, {said}")
    for row in look.execute(OPEN_LETTERS):
        if row["task_id"] not in meant_dead:
            found.add(Kind.BROKEN, "dead letters", f"task {row['task_id']}: {row['reason']}")


def _judge_notes(tasks: dict[int, dict[str, Any]], answer: Answer, found: Findings) -> None:
    """Each note is one task of the general queue, and its result is its function's."""
    notes = [task for task in tasks.values() if task["handler"] != "ingest"]
    seen = Counter(task["request_id"] for task in notes)
    for task in notes:
        name = f"task {task['id']} ({task['request_id']})"
        if task["request_id"] not in answer.results:
            found.add(Kind.BROKEN, "notes", f"{name} is no note of the material")
        elif task["state"] == "succeeded" and task["result"] != answer.results[task["request_id"]]:
            found.add(Kind.WRONG, "notes", f"{name} has the result {task['result']} and must have {answer.results[task['request_id']]}")
    for request_id in answer.results:
        if seen[request_id] != 1:
            found.add(Kind.BROKEN, "notes", f"{request_id} has {seen[request_id]} tasks and must have one")


def _judge_story(task: dict[str, Any], story: list[dict[str, Any]], found: Findings) -> None:
    """Attempts are numbered from 1 without a gap, one after the other, and at most one succeeded: the last one."""
    name, numbers = f"task {task['id']}", [attempt["attempt_no"] for attempt in story]
    if numbers != list(range(1, task["attempt_no"] + 1)):
        found.add(Kind.BROKEN, "attempts", f"{name} has the attempts {numbers} and is at number {task['attempt_no']}")
    for attempt in story:
        if attempt["ended_at"] is None:
            found.add(Kind.BROKEN, "attempts", f"{name}: attempt {attempt['attempt_no']} is open, by {attempt['worker']}")
    won = [attempt["attempt_no"] for attempt in story if attempt["outcome"] == "succeeded"]
    if len(won) > 1:
        found.add(Kind.DOUBLED, "attempts", f"{name}: attempts {won} all succeeded", len(won) - 1)
    if task["state"] == "succeeded" and won[-1:] != [task["attempt_no"]]:
        found.add(Kind.BROKEN, "attempts", f"{name} succeeded; attempts that did are {won}, and the last one is {task['attempt_no']}")
    for before, after in pairwise(story):
        if before["ended_at"] is not None and after["started_at"] < before["ended_at"]:
            found.add(
                Kind.BROKEN,
                "attempts",
                f"{name}: attempt {after['attempt_no']} began before {before['attempt_no']} had ended: two owned it",
            )


def _judge_charge(attempt: dict[str, Any], evidence: Sequence[Interval], grace_s: float, found: Findings) -> None:
    """What was taken from a worker, or charged for it, must be explained by a fault of that very process."""
    cost = attempt["cost"]
    if attempt["ended_at"] is None or (cost in (None, "nothing") and attempt["outcome"] != "expired"):
        return
    near = [interval for interval in evidence if interval.meets(attempt["started_s"], attempt["ended_s"], grace_s)]
    own = [interval for interval in near if interval.hits(attempt["worker"], attempt["host"])]
    if own and (cost == "nothing" or any(cost in interval.costs for interval in own)):
        return
    name = f"attempt {attempt['attempt_no']} of task {attempt['task_id']} by {attempt['worker']}"
    if near and cost != "nothing":
        kinds = ", ".join(sorted({interval.kind for interval in near}))
        found.add(Kind.BROKEN, "charges", f"{name} was charged a {cost} for an outage ({kinds}): {attempt['message']}")
    elif attempt["outcome"] == "expired":
        found.add(Kind.BROKEN, "charges", f"{name} was expired while it was alive and made progress: {attempt['message']}")
    else:
        found.add(Kind.BROKEN, "charges", f"{name} was charged a {cost} and no fault hit it: {attempt['message']}")


def judge_workspace(conn: psycopg.Connection[Any], workspace: Path, found: Findings) -> None:
    """No file is left beside those of dead chunks."""
    dead = {(str(load_id), f"{first_line:012d}") for load_id, first_line in conn.execute(DEAD_CHUNKS)}
    if not workspace.is_dir():
        found.add(Kind.BROKEN, "workspace", f"{workspace} is not there: nobody can tell what was left in it")
    for path in sorted(workspace.rglob("*")):
        if path.is_file() and (path.parent.name, path.name.partition(".")[0]) not in dead:
            found.add(Kind.BROKEN, "workspace", f"{path.relative_to(workspace)} is left")
