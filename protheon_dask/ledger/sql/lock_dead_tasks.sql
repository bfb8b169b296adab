-- lock_dead_tasks: those of these tasks that are dead stay dead, and their letters as they are, until the transaction ends.
-- Params: task_ids bigint[]   Returns: id, in order   Locks: task, in order of id; after run, and never one that runs.   Index: task_pkey.
SELECT id FROM protheon.task
 WHERE id = ANY(%(task_ids)s::bigint[]) AND state = 'dead'
 ORDER BY id
   FOR NO KEY UPDATE;
