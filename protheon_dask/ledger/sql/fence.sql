-- fence: is this attempt still the one? A plain look, without a lock, at the start of the data transaction and after each rollback.
-- Params: task_id bigint, attempt_no integer   Returns: one row, or none: LeaseLost.
-- The write that decides is complete's. Index: task_pkey.
SELECT 1 FROM protheon.task WHERE id = %(task_id)s AND state = 'running' AND attempt_no = %(attempt_no)s;
