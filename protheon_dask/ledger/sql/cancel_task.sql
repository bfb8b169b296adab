-- cancel_task: cancel a task of the general queue that is ready or running; what has ended stays as it is.
-- Params: task_id bigint, now timestamptz?   Returns: task_id, or no row: it has ended, or is no such task
-- A row that is locked is being claimed or completed: that is waited for, within the caller's lock_timeout.
-- Locks: task, then attempt (the order of claim).   Index: task_pkey, attempt_pkey (load_id IS NULL would have all such tasks read).
WITH moved AS (
    UPDATE protheon.task SET state = 'cancelled', lease_until_at = NULL
     WHERE id = %(task_id)s AND handler <> 'ingest' AND state IN ('ready', 'running')
 RETURNING id, attempt_no
), ended AS (
    UPDATE protheon.attempt
       SET ended_at = coalesce(%(now)s, clock_timestamp()), outcome = 'cancelled', cost = 'nothing', message = 'the task was cancelled'
      FROM moved
     WHERE attempt.task_id = moved.id AND attempt.attempt_no = moved.attempt_no AND attempt.ended_at IS NULL
)
SELECT id AS task_id FROM moved;
