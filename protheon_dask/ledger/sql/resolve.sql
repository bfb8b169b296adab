-- resolve: what became of an attempt whose COMMIT was not answered. Asked on a new connection, after the task's advisory lock was
-- taken there: both that lock and this row lock wait for the old transaction's end, so the answer is final (a plain SELECT may be overtaken).
-- Params: task_id bigint, attempt_no integer   Returns: (state, attempt_no, outcome of that attempt)
-- Locks: task.   Index: task_pkey, attempt_pkey.
SELECT task.state, task.attempt_no, attempt.outcome
  FROM protheon.task
  JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = %(attempt_no)s
 WHERE task.id = %(task_id)s
   FOR NO KEY UPDATE OF task;
