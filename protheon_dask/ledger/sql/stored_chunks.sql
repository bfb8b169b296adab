-- stored_chunks: manifests whose files the workspace should hold: tasks that may still run, and dead ones.
-- Params: load_id bigint? (NULL: of all loads)   Returns: (task_id, load_id, state, and the manifest)   Index: task_load.
SELECT chunk.*, task.state
  FROM protheon.task JOIN protheon.chunk ON chunk.task_id = task.id
 WHERE task.handler = 'ingest' AND task.state IN ('ready', 'running', 'dead') AND NOT chunk.oversized
   AND (%(load_id)s::bigint IS NULL OR task.load_id = %(load_id)s)
 ORDER BY chunk.task_id;
