-- look_tasks: where some tasks stand, after Dask hinted that something happened to them.
-- Params: task_ids bigint[], now timestamptz?
-- Returns: (task_id, state, attempt_no, is_due boolean, load_id, first_line: NULL for other handlers)   Index: task_pkey, chunk_pkey.
SELECT task.id AS task_id, task.state, task.attempt_no, task.ready_at <= coalesce(%(now)s, now()) AS is_due, chunk.load_id, chunk.first_line
  FROM protheon.task
  LEFT JOIN protheon.chunk ON chunk.task_id = task.id
 WHERE task.id = ANY (%(task_ids)s::bigint[]);
