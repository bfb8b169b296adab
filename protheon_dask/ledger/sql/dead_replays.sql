-- dead_replays: replays of a load that ended without all of their lines: they will never go on.
-- Params: load_id bigint (the load that they replay)   Returns: load_id of each, in order   Index: load_replay_of, run_pkey.
SELECT load.id AS load_id
  FROM protheon.load JOIN protheon.run ON run.id = load.owner_run_id
 WHERE load.replay_of = %(load_id)s AND load.finished_at IS NULL AND load.retired_at IS NULL AND run.ended_at IS NOT NULL
 ORDER BY load.id;
