-- pause_run: a running run stops being dispatched until it is resumed.
-- Params: run_id bigint, reason text, task_id bigint?, attempt_no integer?: the attempt that pauses it, where one does
-- Returns: id, or no row: it was not running, or was resumed since that attempt began: what it met may be mended by now.
-- Locks: run.   Index: run_pkey, attempt_pkey.
UPDATE protheon.run SET state = 'paused', state_reason = %(reason)s
 WHERE id = %(run_id)s AND state = 'running'
   AND NOT EXISTS (SELECT FROM protheon.attempt
                    WHERE attempt.task_id = %(task_id)s AND attempt.attempt_no = %(attempt_no)s AND attempt.started_at < run.resumed_at)
RETURNING id;
