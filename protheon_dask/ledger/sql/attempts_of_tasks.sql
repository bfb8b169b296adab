-- attempts_of_tasks: every attempt at some tasks.
-- Params: task_ids bigint[]   Returns: one row an attempt, by task, the first one first   Index: attempt_pkey.
SELECT task_id, attempt_no, run_id, host, worker, process_uuid, started_at, ended_at, outcome, cost, given_back, error_class, message, sqlstate,
       wait_s, fetch_s, decompress_s, transform_s, copy_s, merge_s, ledger_s, commit_s
  FROM protheon.attempt
 WHERE task_id = ANY(%(task_ids)s::bigint[])
 ORDER BY task_id, attempt_no;
