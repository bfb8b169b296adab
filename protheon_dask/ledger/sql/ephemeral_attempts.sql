-- ephemeral_attempts: open attempts of runs whose cluster lived as long as one command; its workers are gone with it.
-- Params: with_tasks boolean: those of tasks without a run too, which the workers of that cluster have as well
-- Returns: (task_id, attempt_no)   Index: attempt_open.
SELECT attempt.task_id, attempt.attempt_no
  FROM protheon.attempt LEFT JOIN protheon.run ON run.id = attempt.run_id
 WHERE attempt.ended_at IS NULL AND (run.ephemeral OR (%(with_tasks)s AND attempt.run_id IS NULL));
