-- orphaned_loads: unfinished loads whose owner is cancelled or paused while another run that waits for them runs, with the oldest such run.
-- A run that attaches while the owner is being cancelled comes too late to be handed the load, and a pause hands nothing over.
-- An owner that ended incomplete left nothing live: runs that wait for that load end as it did, and dead chunks stay dead.
-- Params: none   Returns: (load_id, run_id, path, code_hash, owner_ended boolean); run_id, path and code_hash are the heir's
-- Locks: load, never waiting: a row that is locked is being joined or handed over, and is left for the next call.
-- Index: run_open, run_load_pkey, load_pkey.
WITH heir AS (
    SELECT DISTINCT ON (run_load.load_id) run_load.load_id, run_load.run_id, run_load.path
      FROM protheon.run JOIN protheon.run_load ON run_load.run_id = run.id
     WHERE run.ended_at IS NULL AND run.state = 'running'
     ORDER BY run_load.load_id, run_load.run_id, run_load.path
)
SELECT load.id AS load_id, heir.run_id, heir.path, pipeline.code_hash, owner.ended_at IS NOT NULL AS owner_ended
  FROM heir
  JOIN protheon.load ON load.id = heir.load_id AND load.finished_at IS NULL AND load.retired_at IS NULL
  JOIN protheon.run AS owner ON owner.id = load.owner_run_id AND owner.state IN ('cancelled', 'paused')
  JOIN protheon.pipeline ON pipeline.run_id = heir.run_id
 ORDER BY load.id
   FOR NO KEY UPDATE OF load SKIP LOCKED;
