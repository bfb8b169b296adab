-- hand_over_loads: before a run is cancelled, its unfinished loads go to the oldest live run that waits for them.
-- Params: run_id bigint   Returns: (load_id, owner_run_id)   Locks: load.   Index: load_owner, run_load_load.
WITH heir AS (
    SELECT load.id AS load_id, min(waiting.id) AS run_id
      FROM protheon.load
      JOIN protheon.run_load ON run_load.load_id = load.id AND run_load.run_id <> %(run_id)s
      JOIN protheon.run AS waiting ON waiting.id = run_load.run_id AND waiting.ended_at IS NULL
     WHERE load.owner_run_id = %(run_id)s AND load.finished_at IS NULL
     GROUP BY load.id
)
UPDATE protheon.load SET owner_run_id = heir.run_id FROM heir WHERE load.id = heir.load_id
RETURNING load.id AS load_id, load.owner_run_id;
