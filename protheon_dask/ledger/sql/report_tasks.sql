-- report_tasks: tasks as those who submitted them ask for them.
-- Params: task_ids bigint[], only_ended boolean   Returns: a row a task; error_class and message of its last attempt that failed;
--         ended_at: of its last attempt, if the task ended with that one (cancelled while it was ready, it ended with none)
-- Index: task_pkey, attempt_pkey.
SELECT task.id AS task_id, task.handler, task.load_id, task.state, task.attempt_no, task.payload::text AS payload_json,
       task.result::text AS result_json, failed.error_class, failed.message, task.created_at AS submitted_at,
       CASE WHEN task.state = 'ready' THEN task.ready_at END AS ready_at,
       CASE WHEN (task.state, latest.outcome) IN (('succeeded', 'succeeded'), ('cancelled', 'cancelled')) OR task.state = 'dead'
            THEN latest.ended_at END AS ended_at
  FROM protheon.task
  LEFT JOIN protheon.attempt AS latest ON latest.task_id = task.id AND latest.attempt_no = task.attempt_no
  LEFT JOIN LATERAL (
      SELECT attempt.error_class, attempt.message
        FROM protheon.attempt
       WHERE attempt.task_id = task.id AND attempt.error_class IS NOT NULL
       ORDER BY attempt.attempt_no DESC
       LIMIT 1
  ) AS failed ON true
 WHERE task.id = ANY (%(task_ids)s::bigint[])
   AND (NOT %(only_ended)s OR task.state IN ('succeeded', 'dead', 'cancelled'));
