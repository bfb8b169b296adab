-- picture_tasks: tasks of the general queue that have ended, and how often they were tried again. As dear as there are many: asked seldom then.
-- Params: none   Returns: one row: (succeeded, dead, cancelled, and by how they ended the attempts after which a task was claimed again)
-- Index: task_load, attempt_pkey.
SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded, count(*) FILTER (WHERE state = 'dead') AS dead,
       count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
       coalesce(sum(after_failed), 0)::bigint AS after_failed, coalesce(sum(after_released), 0)::bigint AS after_released,
       coalesce(sum(after_crashed), 0)::bigint AS after_crashed, coalesce(sum(after_expired), 0)::bigint AS after_expired,
       coalesce(sum(after_cancelled), 0)::bigint AS after_cancelled
  FROM protheon.task
 CROSS JOIN LATERAL (  -- as in picture_loads
       SELECT count(*) FILTER (WHERE outcome = 'failed') AS after_failed, count(*) FILTER (WHERE outcome = 'released') AS after_released,
              count(*) FILTER (WHERE outcome = 'crashed') AS after_crashed, count(*) FILTER (WHERE outcome = 'expired') AS after_expired,
              count(*) FILTER (WHERE outcome = 'cancelled') AS after_cancelled
         FROM protheon.attempt WHERE attempt.task_id = task.id AND attempt.attempt_no < task.attempt_no AND task.attempt_no > 1) AS tried
 WHERE task.load_id IS NULL;
