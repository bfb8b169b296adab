-- letters_of_tasks: where the tasks that a person names stand.
-- Params: task_ids bigint[]
-- Returns: (task_id, load_id: NULL of the general queue, state, n_letters, is_purged: its letter was given up, owner_run_id, run_state: of its load)
-- Those that there are, in order.   Index: task_pkey, dead_letter_pkey, load_pkey, run_pkey.
SELECT task.id AS task_id, task.load_id, task.state, letters.n AS n_letters, letters.is_purged, run.id AS owner_run_id, run.state AS run_state
  FROM protheon.task
  LEFT JOIN protheon.load ON load.id = task.load_id
  LEFT JOIN protheon.run ON run.id = load.owner_run_id
  CROSS JOIN LATERAL (
       SELECT count(*) AS n, coalesce(bool_or(replayed_at IS NULL AND purged_at IS NOT NULL), false) AS is_purged
         FROM protheon.dead_letter WHERE dead_letter.task_id = task.id) AS letters
 WHERE task.id = ANY(%(task_ids)s::bigint[])
 ORDER BY task.id;
