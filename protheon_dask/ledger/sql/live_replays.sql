-- live_replays: replays of these loads that may still go on, and how many lines wait in them.
-- Params: load_ids bigint[] (the loads that they replay)   Returns: (load_id, replay_of, run_id, state, n_lines), in order
-- Index: load_replay_of, run_pkey, reject_replay.
SELECT load.id AS load_id, load.replay_of, run.id AS run_id, run.state,
       (SELECT count(*) FROM protheon.reject WHERE reject.replay_load_id = load.id AND reject.replayed_by IS NULL) AS n_lines
  FROM protheon.load JOIN protheon.run ON run.id = load.owner_run_id
 WHERE load.replay_of = ANY (%(load_ids)s::bigint[]) AND load.finished_at IS NULL AND load.retired_at IS NULL AND run.ended_at IS NULL
 ORDER BY load.id;
