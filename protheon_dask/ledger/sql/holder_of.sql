-- holder_of: which worker process opened an attempt that is still open.
-- Params: task_id bigint, attempt_no integer   Returns: (worker, host, process_uuid, run_id), or no row   Index: attempt_pkey.
SELECT worker, host, process_uuid, run_id FROM protheon.attempt WHERE task_id = %(task_id)s AND attempt_no = %(attempt_no)s AND ended_at IS NULL;
