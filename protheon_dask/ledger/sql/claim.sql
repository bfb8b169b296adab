-- claim: open an attempt by compare-and-set on attempt_no, or find the one that this token already holds.
-- Params: task_id bigint, attempt_no integer (as the dispatch saw it), token uuid, lease_s double precision,
--         process_uuid uuid, worker text, host text, now timestamptz?
-- Returns: one row (attempt_no, run_id, handler, payload, visibility_s, max_failures, load_id, replay_of, path: of a replay that of
--          the source its lines came from, and the chunk's manifest; NULLs for other handlers), or no row
-- No row: the race is lost, the task is not due, its run is not running, or the host is set aside. Nothing happened; the caller returns at once.
-- Locks: task, then attempt.   Index: task_pkey, attempt_token_key.
-- The run's state is read without a lock: a claim that overtakes a pause runs on, and a cancel sweeps until nothing is left.
WITH moved AS (
    UPDATE protheon.task
       SET state = 'running',
           attempt_no = task.attempt_no + 1,
           lease_until_at = coalesce(%(now)s, now()) + make_interval(secs => %(lease_s)s)
     WHERE task.id = %(task_id)s
       AND task.state = 'ready'
       AND task.attempt_no = %(attempt_no)s
       AND task.ready_at <= coalesce(%(now)s, now())
       AND NOT EXISTS (SELECT FROM protheon.host_aside WHERE host_aside.host = %(host)s AND host_aside.until_at > coalesce(%(now)s, now()))
       AND (task.load_id IS NULL
            OR EXISTS (SELECT FROM protheon.load JOIN protheon.run ON run.id = load.owner_run_id
                        WHERE load.id = task.load_id AND run.state = 'running'))
 RETURNING task.id, task.attempt_no, task.load_id
), opened AS (
    INSERT INTO protheon.attempt (task_id, attempt_no, token, run_id, process_uuid, worker, host, started_at, lines)
    SELECT moved.id, moved.attempt_no, %(token)s, load.owner_run_id, %(process_uuid)s, %(worker)s, %(host)s, coalesce(%(now)s, now()), chunk.n_lines
      FROM moved
      LEFT JOIN protheon.load ON load.id = moved.load_id
      LEFT JOIN protheon.chunk ON chunk.task_id = moved.id
 RETURNING task_id, attempt_no, run_id
), held AS (
    SELECT task_id, attempt_no, run_id FROM opened
    UNION ALL
    SELECT attempt.task_id, attempt.attempt_no, attempt.run_id
      FROM protheon.attempt
      JOIN protheon.task ON task.id = attempt.task_id AND task.state = 'running' AND task.attempt_no = attempt.attempt_no
     WHERE attempt.token = %(token)s AND attempt.ended_at IS NULL
)
SELECT held.attempt_no, held.run_id, task.handler, task.payload, task.visibility_s, task.max_failures,
       load.id AS load_id, load.replay_of, coalesce(original.path, load.path) AS path,
       chunk.chunk_no, chunk.first_line, chunk.n_lines, chunk.byte_offset, chunk.raw_bytes, chunk.raw_xxh3, chunk.stored_bytes,
       chunk.stored_xxh3, chunk.generation, chunk.restart_stored_offset, chunk.restart_raw_offset, chunk.restart_line, chunk.oversized
  FROM held
  JOIN protheon.task ON task.id = held.task_id
  LEFT JOIN protheon.chunk ON chunk.task_id = held.task_id
  LEFT JOIN protheon.load ON load.id = chunk.load_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of;
