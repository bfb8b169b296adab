-- ended_attempt: on which host an attempt was, for which run, and what its end cost.
-- Params: task_id bigint, attempt_no integer   Returns: (host, run_id, outcome, cost, message, given_back), or no row: never opened, or open still
-- Index: attempt_pkey.
SELECT host, run_id, outcome, cost, message, given_back
  FROM protheon.attempt
 WHERE task_id = %(task_id)s AND attempt_no = %(attempt_no)s AND ended_at IS NOT NULL;
