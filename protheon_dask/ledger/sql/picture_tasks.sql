-- picture_tasks: tasks of the general queue that have ended, and how often they were tried again. As dear as there are many: asked seldom then.
-- Params: none   Returns: one row: (succeeded, dead, cancelled, and by how they ended the attempts after which a task was claimed again)
-- Index: task_load, attempt_pkey.
SELECT ended.*, tried.*
  FROM (SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded, count(*) FILTER (WHERE state = 'dead') AS dead,
               count(*) FILTER (WHERE state = 'cancelled') AS cancelled
          FROM protheon.task WHERE load_id IS NULL) AS ended
 CROSS JOIN (
       SELECT count(*) FILTER (WHERE outcome = 'failed') AS after_failed, count(*) FILTER (WHERE outcome = 'released') AS after_released,
              count(*) FILTER (WHERE outcome = 'crashed') AS after_crashed, count(*) FILTER (WHERE outcome = 'expired') AS after_expired,
              count(*) FILTER (WHERE outcome = 'cancelled') AS after_cancelled
         FROM protheon.task JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no < task.attempt_no
        WHERE task.load_id IS NULL AND task.attempt_no > 1) AS tried;
