-- cancel_task: cancel a task of the general queue that is ready or running; what has ended stays as it is.
-- Params: task_id bigint   Returns: task_id, or no row: it has ended, or is no such task
-- A row that is locked is being claimed or completed: that is waited for, within the caller's lock_timeout.
-- Its attempt is ended by end_cancelled, which comes next.
-- Locks: task.   Index: task_pkey (load_id IS NULL would have all such tasks read).
UPDATE protheon.task SET state = 'cancelled', lease_until_at = NULL
 WHERE id = %(task_id)s AND handler <> 'ingest' AND state IN ('ready', 'running')
RETURNING id AS task_id;
