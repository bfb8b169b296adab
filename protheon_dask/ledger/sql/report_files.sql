-- report_files: a run's loads.
-- Params: run_id bigint, limit integer? (NULL: all)   Returns: one row a path, by load   Index: run_load_pkey, task_load.
SELECT run_load.load_id, run_load.path, run_load.joined, load.owner_run_id, load.split_state, load.split_message, load.damaged_at_bytes,
       load.chunk_lines, load.n_chunks, source.size_bytes, load.finished_at, load.retired_at, load.undone_at,
       CASE WHEN load.undone_at IS NOT NULL THEN 'undone' WHEN load.undo_started_at IS NOT NULL THEN 'being undone' END AS undo_state,
       counted.chunks, counted.chunks_done, counted.chunks_dead, counted.lines, counted.loaded, counted.filtered, counted.rejected, counted.blank
  FROM protheon.run_load
  JOIN protheon.load ON load.id = run_load.load_id
  JOIN protheon.source ON source.id = load.source_id
  CROSS JOIN LATERAL (
       SELECT count(*) AS chunks, count(*) FILTER (WHERE task.state = 'succeeded') AS chunks_done,
              count(*) FILTER (WHERE task.state = 'dead') AS chunks_dead,
              coalesce(sum(attempt.lines), 0)::bigint AS lines, coalesce(sum(attempt.loaded), 0)::bigint AS loaded,
              coalesce(sum(attempt.filtered), 0)::bigint AS filtered, coalesce(sum(attempt.rejected), 0)::bigint AS rejected,
              coalesce(sum(attempt.blank), 0)::bigint AS blank
         FROM protheon.task
         LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no AND attempt.outcome = 'succeeded'
        WHERE task.load_id = load.id) AS counted
 WHERE run_load.run_id = %(run_id)s
 ORDER BY run_load.load_id, run_load.path
 LIMIT %(limit)s;
