-- story_files: a run's files for its story, those that need a person first.
-- Params: run_id bigint, limit integer
-- Returns: one row a file and path: how the run came to it, what was cut of it and what of that is committed, by whoever did it
-- Counts are taken of those alone that are returned.
-- Index: run_load_pkey, load_pkey, task_load, attempt_pkey.
SELECT coalesce('rejects of run ' || original.owner_run_id, chosen.path) AS path, chosen.joined, chosen.split_state, chosen.split_message,
       chosen.size_bytes, chosen.is_finished, chosen.undone, counted.chunks, counted.chunks_done, counted.chunks_dead, counted.lines, counted.rejected
  FROM (SELECT load.id, run_load.path, run_load.joined, load.split_state, load.split_message, source.size_bytes, load.replay_of,
               load.finished_at IS NOT NULL AS is_finished, load.undo_started_at IS NOT NULL AS undone
          FROM protheon.run_load
          JOIN protheon.load ON load.id = run_load.load_id
          JOIN protheon.source ON source.id = load.source_id
         WHERE run_load.run_id = %(run_id)s
         ORDER BY load.split_state NOT IN ('damaged', 'changed', 'failed'), load.finished_at IS NOT NULL, load.id, run_load.path
         LIMIT %(limit)s) AS chosen
  LEFT JOIN protheon.load AS original ON original.id = chosen.replay_of
  CROSS JOIN LATERAL (
       SELECT count(*) AS chunks, count(*) FILTER (WHERE task.state = 'succeeded') AS chunks_done,
              count(*) FILTER (WHERE task.state = 'dead') AS chunks_dead,
              coalesce(sum(attempt.lines), 0)::bigint AS lines, coalesce(sum(attempt.rejected), 0)::bigint AS rejected
         FROM protheon.task
         LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no AND attempt.outcome = 'succeeded'
        WHERE task.load_id = chosen.id) AS counted
 ORDER BY chosen.split_state NOT IN ('damaged', 'changed', 'failed'), chosen.is_finished, chosen.id, chosen.path;
