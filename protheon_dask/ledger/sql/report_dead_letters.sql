-- report_dead_letters: tasks that gave up: of a run's loads, of the general queue, or one of whatever run.
-- Params: run_id bigint?, task_id bigint?, queue boolean (tasks without a run), closed boolean (replayed and purged ones, too), limit integer
-- Returns: one row a letter, newest first (status: open, replayed or purged; path: of a replay a name for people; error and place are the last attempt's;
--          pipeline_reference: what --pipeline takes anywhere, NULL where the code came by value)
-- Index: run_load_pkey, dead_letter_open, dead_letter_pkey, task_pkey, attempt_pkey, chunk_pkey, pipeline_pkey.
SELECT letter.task_id, letter.attempt_no, letter.reason, letter.died_at, letter.replayed_at, letter.purged_at,
       CASE WHEN letter.replayed_at IS NOT NULL THEN 'replayed' WHEN letter.purged_at IS NOT NULL THEN 'purged' ELSE 'open' END AS status,
       task.state AS task_state, task.handler, load.id AS load_id, load.owner_run_id AS run_id,
       coalesce('rejects of run ' || original.owner_run_id, load.path) AS path, chunk.chunk_no,
       chunk.first_line, chunk.n_lines, chunk.byte_offset, chunk.raw_bytes, attempt.host, attempt.worker, attempt.error_class, attempt.message,
       attempt.traceback, attempt.sqlstate, pipeline.name AS pipeline_name, nullif(pipeline.reference, '') AS pipeline_reference
  FROM protheon.dead_letter AS letter
  JOIN protheon.task ON task.id = letter.task_id
  JOIN protheon.attempt ON attempt.task_id = letter.task_id AND attempt.attempt_no = letter.attempt_no
  LEFT JOIN protheon.chunk ON chunk.task_id = task.id
  LEFT JOIN protheon.load ON load.id = task.load_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
  LEFT JOIN protheon.pipeline ON pipeline.run_id = load.owner_run_id
 WHERE (%(closed)s::boolean OR (letter.replayed_at IS NULL AND letter.purged_at IS NULL))
   AND (%(task_id)s::bigint IS NULL OR letter.task_id = %(task_id)s)
   AND (%(run_id)s::bigint IS NULL OR task.load_id IN (SELECT load_id FROM protheon.run_load WHERE run_load.run_id = %(run_id)s))
   AND (NOT %(queue)s::boolean OR task.load_id IS NULL)
 ORDER BY letter.died_at DESC, letter.task_id DESC
 LIMIT %(limit)s;
