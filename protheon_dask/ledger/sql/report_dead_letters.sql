-- report_dead_letters: tasks of a run's loads that gave up and were not replayed.
-- Params: run_id bigint, limit integer, task_id bigint?   Returns: one row a dead letter (path: of a replay a name for people)   Index: run_load_pkey, task_load, dead_letter_open.
SELECT dead_letter.task_id, dead_letter.attempt_no, dead_letter.reason, dead_letter.died_at, chunk.load_id,
       coalesce('rejects of run ' || original.owner_run_id, load.path) AS path, chunk.chunk_no,
       chunk.first_line, chunk.n_lines, attempt.host, attempt.worker, attempt.error_class, attempt.message, attempt.traceback, attempt.sqlstate
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.task ON task.load_id = joined.load_id AND task.state = 'dead'
  JOIN protheon.dead_letter ON dead_letter.task_id = task.id AND dead_letter.replayed_at IS NULL
  JOIN protheon.attempt ON attempt.task_id = dead_letter.task_id AND attempt.attempt_no = dead_letter.attempt_no
  LEFT JOIN protheon.chunk ON chunk.task_id = task.id
  LEFT JOIN protheon.load ON load.id = chunk.load_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
 WHERE %(task_id)s::bigint IS NULL OR task.id = %(task_id)s
 ORDER BY dead_letter.died_at DESC
 LIMIT %(limit)s;
