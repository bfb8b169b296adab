-- undone_loads: loads of a run that are undone, or whose undo has begun.
-- Params: run_id bigint   Returns: (load_id, path, undone_at: NULL while rows are left)   Index: run_load_pkey, load_pkey.
SELECT load.id AS load_id, load.path, load.undone_at
  FROM protheon.load
 WHERE load.undo_started_at IS NOT NULL AND load.id IN (SELECT load_id FROM protheon.run_load WHERE run_id = %(run_id)s)
 ORDER BY load.id;
