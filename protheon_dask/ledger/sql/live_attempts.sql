-- live_attempts: open attempts with the process that runs them.
-- Params: none   Returns: (task_id, attempt_no, process_uuid, worker, host)   Index: attempt_open.
SELECT task_id, attempt_no, process_uuid, worker, host FROM protheon.attempt WHERE ended_at IS NULL;
