-- undone_loads: loads of a run that are undone, or whose undo has begun.
-- Params: run_id bigint   Returns: (load_id, path: of a replay a name for people, undone_at: NULL while rows are left)   Index: run_load_pkey, load_pkey.
SELECT load.id AS load_id, coalesce('rejects of run ' || original.owner_run_id, load.path) AS path, load.undone_at
  FROM protheon.load
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
 WHERE load.undo_started_at IS NOT NULL AND load.id IN (SELECT load_id FROM protheon.run_load WHERE run_id = %(run_id)s)
 ORDER BY load.id;
