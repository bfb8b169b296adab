-- stuck: running tasks that are still locked after their lease and the grace of a completion; seen without a lock.
-- Params: grace_s double precision, now timestamptz?   Returns: (task_id, attempt_no)   Index: task_running.
-- The caller terminates the backend that holds the task's advisory lock; the next expire then finds the row free.
SELECT id AS task_id, attempt_no
  FROM protheon.task
 WHERE state = 'running'
   AND lease_until_at < coalesce(%(now)s, now()) - make_interval(secs => %(grace_s)s)
 ORDER BY id;
