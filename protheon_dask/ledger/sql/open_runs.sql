-- open_runs: runs that have not ended, with what decides whether they can.
-- Params: none
-- Returns: (id, state, n_live_loads: still being cut or with ready or running tasks, n_unfinished, messages text[],
--           reject_limit_lines, reject_limit_fraction, resumed_at)
-- Index: run_open, run_load_pkey, task_load.
SELECT run.id, run.state, run.reject_limit_lines, run.reject_limit_fraction, run.resumed_at,
       count(DISTINCT load.id) FILTER (WHERE load.finished_at IS NULL AND
             (load.split_state IN ('pending', 'splitting')
              OR EXISTS (SELECT FROM protheon.task WHERE task.load_id = load.id AND task.state IN ('ready', 'running')))) AS n_live_loads,
       count(DISTINCT load.id) FILTER (WHERE load.finished_at IS NULL) AS n_unfinished,
       coalesce(array_agg(DISTINCT coalesce('rejects of run ' || original.owner_run_id, load.path) || ': ' || load.split_message) FILTER (WHERE load.split_message IS NOT NULL), '{}') AS messages
  FROM protheon.run
  LEFT JOIN protheon.run_load ON run_load.run_id = run.id
  LEFT JOIN protheon.load ON load.id = run_load.load_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
 WHERE run.ended_at IS NULL AND run.state <> 'queued'
 GROUP BY run.id
 ORDER BY run.id;
