-- load_family: loads and the replays of their rejects, locked; their sources are held already (lock_sources).
-- Params: load_ids bigint[]
-- Returns: one row a load, in order: (load_id, root_id: of the load itself or the one that it replays, replay_of, path: of a replay a name for people, source_id, owner_run_id,
--          undo_started_at, undone_at, n_running: tasks at work, tables: JSON of the owner's pipeline, reference of that)
-- Locks: load, in order of id.   Index: load_pkey, load_replay_of, task_load, pipeline_pkey.
SELECT load.id AS load_id, coalesce(load.replay_of, load.id) AS root_id, load.replay_of,
       coalesce('rejects of run ' || (SELECT original.owner_run_id FROM protheon.load AS original WHERE original.id = load.replay_of), load.path) AS path,
       load.source_id, load.owner_run_id,
       load.undo_started_at, load.undone_at,
       (SELECT count(*) FROM protheon.task WHERE task.load_id = load.id AND task.state = 'running') AS n_running,
       pipeline.tables, pipeline.reference
  FROM protheon.load
  JOIN protheon.pipeline ON pipeline.run_id = load.owner_run_id
 WHERE load.id = ANY(%(load_ids)s::bigint[]) OR load.replay_of = ANY(%(load_ids)s::bigint[])
 ORDER BY load.id
   FOR UPDATE OF load;
