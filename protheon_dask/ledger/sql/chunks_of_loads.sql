-- chunks_of_loads: the tasks of loads, each with the load that is undone with it (for a replay the one that it replays).
-- Params: load_ids bigint[]   Returns: (task_id, root_id), in order   Index: task_load.
SELECT task.id AS task_id, coalesce(load.replay_of, load.id) AS root_id
  FROM protheon.load JOIN protheon.task ON task.load_id = load.id
 WHERE load.id = ANY(%(load_ids)s::bigint[])
 ORDER BY task.id;
