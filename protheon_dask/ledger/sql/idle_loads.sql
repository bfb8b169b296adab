-- idle_loads: which of these loads are owned by a run that does not run now.
-- Params: load_ids bigint[]   Returns: (load_id, run_state)   Index: load_pkey, run_pkey.
SELECT load.id AS load_id, run.state AS run_state
  FROM protheon.load JOIN protheon.run ON run.id = load.owner_run_id
 WHERE load.id = ANY (%(load_ids)s::bigint[]) AND run.state <> 'running';
