-- letters_of_run: the open dead letters of a run's loads: neither replayed nor purged.
-- Params: run_id bigint   Returns: (task_id, load_id), in order of task_id
-- A look, not a lock: whoever acts on them asks again by their numbers.   Index: run_load_pkey, task_load, dead_letter_open.
SELECT task.id AS task_id, task.load_id
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.task ON task.load_id = joined.load_id AND task.state = 'dead'
  JOIN protheon.dead_letter ON dead_letter.task_id = task.id AND dead_letter.replayed_at IS NULL AND dead_letter.purged_at IS NULL
 ORDER BY task.id;
