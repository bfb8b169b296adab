-- live_spools: files of replays that may still be cut.
-- Params: none   Returns: path of each   Index: run_open, load_owner.
SELECT load.path
  FROM protheon.run JOIN protheon.load ON load.owner_run_id = run.id
 WHERE run.ended_at IS NULL AND load.replay_of IS NOT NULL AND load.finished_at IS NULL AND load.retired_at IS NULL;
