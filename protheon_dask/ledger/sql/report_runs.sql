-- report_runs: the newest runs.
-- Params: limit integer   Returns: one row a run, newest first   Index: run_pkey.
SELECT run.id AS run, run.state, run.state_reason, run.pipeline_name, run.pipeline_version, run.paths, run.submitted_at, run.ended_at,
       extract(epoch FROM coalesce(run.ended_at, now()) - run.submitted_at)::double precision AS seconds,
       (SELECT count(DISTINCT load_id) FROM protheon.run_load WHERE run_load.run_id = run.id) AS files,
       (SELECT nullif(count(DISTINCT load.id), 0) FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
         WHERE run_load.run_id = run.id AND load.undo_started_at IS NOT NULL) AS undone,
       coalesce(CASE WHEN run.state IN ('cancelled', 'paused', 'incomplete')  -- as run_statistics.gone_on_by
                     THEN (SELECT array_agg(DISTINCT load.owner_run_id) FILTER (WHERE load.owner_run_id <> run.id AND run_load.joined NOT IN ('skipped', 'attached'))
                             FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
                            WHERE run_load.run_id = run.id
                           HAVING bool_and(load.owner_run_id <> run.id OR load.finished_at IS NOT NULL)) END, '{}') AS gone_on_by,
       counted.chunks, counted.lines, counted.rejected
  FROM (SELECT * FROM protheon.run ORDER BY id DESC LIMIT %(limit)s) AS run
  CROSS JOIN LATERAL (
       SELECT count(*) AS chunks, coalesce(sum(attempt.lines), 0)::bigint AS lines, coalesce(sum(attempt.rejected), 0)::bigint AS rejected
         FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_load.run_id = run.id) AS joined
         JOIN protheon.task ON task.load_id = joined.load_id
         LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no AND attempt.outcome = 'succeeded') AS counted
 ORDER BY run.id DESC;
