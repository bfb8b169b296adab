-- stored_chunks: manifests whose files the workspace should hold: tasks that may still run, and dead ones that were not purged.
-- A finished load has none: what is read is what is open, however much was loaded before.
-- Params: load_id bigint? (NULL: of all loads)   Returns: (task_id, load_id, state, owner_runs boolean: the run that gates it is running, and the manifest)
-- Index: task_load, load_pkey, run_pkey, dead_letter_open.
SELECT chunk.*, task.state, run.state = 'running' AS owner_runs
  FROM protheon.load
  JOIN protheon.task ON task.load_id = load.id
  JOIN protheon.chunk ON chunk.task_id = task.id
  JOIN protheon.run ON run.id = load.owner_run_id
 WHERE load.finished_at IS NULL AND task.handler = 'ingest' AND task.state IN ('ready', 'running', 'dead') AND NOT chunk.oversized
   AND (task.state <> 'dead' OR NOT EXISTS (SELECT FROM protheon.dead_letter AS letter WHERE letter.task_id = task.id
                                              AND letter.replayed_at IS NULL AND letter.purged_at IS NOT NULL))
   AND (%(load_id)s::bigint IS NULL OR task.load_id = %(load_id)s)
 ORDER BY chunk.task_id;
