"""A ledger with the past of many runs in it: for the benchmark of its statements, and for the tests of their plans."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

CHUNKS_A_LOAD = 10_000
LINES_A_CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class Filled:
    """What is in it: a finished run with most loads; a running one with half a load done; a cancelled one; one that has just begun."""

    n_tasks: int
    running_run: int
    cancelled_run: int
    fresh_run: int
    half_load: int
    fresh_load: int
    first_ready: int  # task; CHUNKS_A_LOAD // 2 of the half load, then all of the fresh one, are ready
    first_fresh: int


RUNS = """
INSERT INTO protheon.run (state, paths, pipeline_name, pipeline_version, reject_limit_fraction, ephemeral, ended_at)
VALUES ('succeeded', '{/a}', 'p', '1', 0.5, false, now()), ('running', '{/b}', 'p', '1', 0.5, false, NULL),
       ('cancelled', '{/c}', 'p', '1', 0.5, false, now()), ('running', '{/d}', 'p', '1', 0.5, false, NULL)
RETURNING id
"""
PIPELINES = """
INSERT INTO protheon.pipeline (run_id, name, version, reference, object, signature, code_hash, tables, versions, options)
SELECT id, 'p', '1', 'p', '', '', '', '[]', '{}', '{}' FROM protheon.run
"""
SOURCES = """
INSERT INTO protheon.source (size_bytes, digest) SELECT n, decode(md5(n::text), 'hex') FROM generate_series(1, %(n_loads)s) AS n
"""
LOADS = """
INSERT INTO protheon.load (pipeline_name, pipeline_version, options, source_id, owner_run_id, path, code_hash, chunk_lines, max_chunk_bytes,
                           max_line_bytes, estimated_lines, split_state, n_chunks, finished_at)
SELECT 'p', '1', '{}', id, owner, '/a/' || id, '', 50000, 1 << 29, 1 << 26, 500000000, 'complete', %(chunks)s,
       CASE WHEN owner = %(finished)s THEN now() END
  FROM (SELECT id, CASE row_number() OVER (ORDER BY id DESC) WHEN 1 THEN %(fresh)s WHEN 2 THEN %(cancelled)s WHEN 3 THEN %(running)s
                        ELSE %(finished)s END AS owner
          FROM protheon.source) AS its
 ORDER BY id
"""
RUN_LOADS = "INSERT INTO protheon.run_load (run_id, load_id, path, joined) SELECT owner_run_id, id, path, 'new' FROM protheon.load"
TASKS = """
INSERT INTO protheon.task (handler, load_id, state, attempt_no, ready_at)
SELECT 'ingest', load.id, state, (state = 'succeeded')::integer, now() - interval '1 hour'
  FROM protheon.load, generate_series(1, %(chunks)s) AS n, LATERAL (
       SELECT CASE WHEN owner_run_id = %(fresh)s THEN 'ready' WHEN owner_run_id = %(cancelled)s THEN 'cancelled'
                   WHEN owner_run_id = %(running)s AND n > %(chunks)s / 2 THEN 'ready' ELSE 'succeeded' END AS state) AS its
 ORDER BY load.id, n
"""
CHUNKS = """
INSERT INTO protheon.chunk
SELECT id, load_id, no, (no - 1) * %(lines)s + 1, %(lines)s, (no - 1) * 1000, 1000, '\\x00112233445566778899aabbccddeeff', 100,
       '\\x00112233445566778899aabbccddeeff', 1, 0, 0, 1, false
  FROM (SELECT id, load_id, row_number() OVER (PARTITION BY load_id ORDER BY id) AS no FROM protheon.task) AS its
"""
ATTEMPTS = """
INSERT INTO protheon.attempt (task_id, attempt_no, token, run_id, process_uuid, worker, host, started_at, ended_at, outcome, cost, lines,
                              loaded)
SELECT task.id, 1, gen_random_uuid(), load.owner_run_id, gen_random_uuid(), 'w', 'h', now(), now(), 'succeeded', 'nothing', %(lines)s,
       %(lines)s
  FROM protheon.task JOIN protheon.load ON load.id = task.load_id WHERE task.state = 'succeeded'
"""
TABLE_COUNTS = """
INSERT INTO protheon.table_count (task_id, attempt_no, table_name, offered, inserted, updated, ignored)
SELECT task_id, attempt_no, 'public.t', lines, lines, 0, 0 FROM protheon.attempt
"""


def fill(conn: psycopg.Connection, n_tasks: int) -> Filled:
    """Fill an empty ledger with this many tasks, a multiple of CHUNKS_A_LOAD, at least four loads, and give it statistics. As superuser."""
    assert conn.autocommit, "VACUUM runs in no transaction"
    assert n_tasks % CHUNKS_A_LOAD == 0
    assert n_tasks >= 4 * CHUNKS_A_LOAD
    finished, running, cancelled, fresh = (row[0] for row in conn.execute(RUNS).fetchall())
    params = {
        "n_loads": n_tasks // CHUNKS_A_LOAD, "chunks": CHUNKS_A_LOAD, "lines": LINES_A_CHUNK,
        "finished": finished, "running": running, "cancelled": cancelled, "fresh": fresh,
    }  # fmt: skip
    conn.execute("SET session_replication_role = replica")  # what refers to what is right as it is written; looking would take minutes
    conn.execute(PIPELINES)
    for text in (SOURCES, LOADS, RUN_LOADS, TASKS, CHUNKS, ATTEMPTS, TABLE_COUNTS):
        conn.execute(text.encode(), params)
    conn.execute("RESET session_replication_role")
    conn.execute("VACUUM ANALYZE")
    half_load, first_ready, fresh_load, first_fresh = (
        value
        for run_id in (running, fresh)
        for value in conn.execute(
            "SELECT load.id, min(task.id) FROM protheon.load JOIN protheon.task ON task.load_id = load.id"
            " WHERE load.owner_run_id = %s AND task.state = 'ready' GROUP BY load.id",
            (run_id,),
        ).fetchall()[0]
    )
    return Filled(n_tasks, running, cancelled, fresh, half_load, fresh_load, first_ready, first_fresh)
