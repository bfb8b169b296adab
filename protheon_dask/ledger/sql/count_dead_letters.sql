-- count_dead_letters: how many dead letters there are, by status and reason.
-- Params: run_id bigint?, queue boolean
-- Returns: (status: open, replayed or purged, reason, error_class, n, message: of the first that died so), the most first
-- Index: run_load_pkey, dead_letter_pkey, task_pkey, attempt_pkey.
SELECT CASE WHEN letter.replayed_at IS NOT NULL THEN 'replayed' WHEN letter.purged_at IS NOT NULL THEN 'purged' ELSE 'open' END AS status,
       letter.reason, attempt.error_class, count(*) AS n,
       (array_agg(attempt.message ORDER BY letter.died_at, letter.task_id))[1] AS message
  FROM protheon.dead_letter AS letter
  JOIN protheon.task ON task.id = letter.task_id
  JOIN protheon.attempt ON attempt.task_id = letter.task_id AND attempt.attempt_no = letter.attempt_no
 WHERE (%(run_id)s::bigint IS NULL OR task.load_id IN (SELECT load_id FROM protheon.run_load WHERE run_load.run_id = %(run_id)s))
   AND (NOT %(queue)s::boolean OR task.load_id IS NULL)
 GROUP BY 1, 2, 3
 ORDER BY n DESC, letter.reason, attempt.error_class;
