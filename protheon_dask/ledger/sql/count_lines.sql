-- count_lines: committed lines, rejects and dead tasks of a run's loads, for the reject limit and the run's end.
-- Params: run_id bigint   Returns: (lines, own_lines: loaded by this run itself, rejected, dead, purged: of the dead ones)   Index: run_load_pkey, task_load, attempt_pkey, dead_letter_open.
SELECT coalesce(sum(attempt.lines), 0)::bigint AS lines,
       coalesce(sum(attempt.lines) FILTER (WHERE attempt.run_id = %(run_id)s), 0)::bigint AS own_lines,
       coalesce(sum(attempt.rejected), 0)::bigint AS rejected,
       count(*) FILTER (WHERE task.state = 'dead') AS dead,
       count(*) FILTER (WHERE task.state = 'dead' AND EXISTS (SELECT FROM protheon.dead_letter AS letter WHERE letter.task_id = task.id
                                                                AND letter.replayed_at IS NULL AND letter.purged_at IS NOT NULL)) AS purged
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.task ON task.load_id = joined.load_id
  LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no AND attempt.outcome = 'succeeded';
