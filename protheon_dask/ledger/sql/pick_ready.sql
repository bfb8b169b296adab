-- pick_ready: tasks to hand to Dask: retries first, then by priority, then the oldest.
-- Params: left_out bigint[] (with Dask already, or without a file), n integer, now timestamptz?   Returns: (task_id, attempt_no, handler, load_id, first_line: NULL for other handlers,
--         failed_on: the host on which its last attempt ended at a cost, or NULL)
-- A look, not a claim: the worker opens the attempt.   Index: task_ready, read in its order; chunk_pkey, attempt_pkey.
SELECT task.id AS task_id, task.attempt_no, task.handler, task.load_id, chunk.first_line, last.host AS failed_on
  FROM protheon.task
  LEFT JOIN protheon.chunk ON chunk.task_id = task.id
  LEFT JOIN protheon.load ON load.id = task.load_id
  LEFT JOIN protheon.run ON run.id = load.owner_run_id
  LEFT JOIN protheon.attempt AS last ON last.task_id = task.id AND last.attempt_no = task.attempt_no AND last.cost <> 'nothing'
 WHERE task.state = 'ready'
   AND task.ready_at <= coalesce(%(now)s, now())
   AND (task.load_id IS NULL OR run.state = 'running')
   AND task.id <> ALL (%(left_out)s::bigint[])
 ORDER BY (task.attempt_no > 0) DESC, task.priority DESC, task.id
 LIMIT %(n)s;
