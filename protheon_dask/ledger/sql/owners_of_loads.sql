-- owners_of_loads: the runs that gate these loads, which the caller has locked, and whether the loads still count.
-- Params: load_ids bigint[]
-- Returns: (load_id, path: of a replay a name for people, is_retired, is_undone boolean, run_id, run_state), by run
-- Locks: run, in order of id; after load.   Index: load_pkey, run_pkey.
SELECT load.id AS load_id, coalesce('rejects of run ' || original.owner_run_id, load.path) AS path,
       load.retired_at IS NOT NULL AS is_retired, load.undo_started_at IS NOT NULL AS is_undone, run.id AS run_id, run.state AS run_state
  FROM protheon.load
  JOIN protheon.run ON run.id = load.owner_run_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
 WHERE load.id = ANY(%(load_ids)s::bigint[])
 ORDER BY run.id, load.id
   FOR NO KEY UPDATE OF run;
