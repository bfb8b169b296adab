-- end_cancelled: end the open attempts of tasks that were cancelled just before, in the same transaction.
-- Params: task_ids bigint[], message text, now timestamptz?   Returns: nothing
-- A statement of its own: who cancelled may have waited for a claim, whose attempt only a later statement's snapshot shows. Left open,
-- it would let nobody claim the task again.
-- Locks: attempt; the caller holds the tasks (task, then attempt).   Index: attempt_open, task_pkey.
UPDATE protheon.attempt
   SET ended_at = coalesce(%(now)s, clock_timestamp()), outcome = 'cancelled', cost = 'nothing', message = %(message)s
  FROM protheon.task
 WHERE task.id = ANY(%(task_ids)s::bigint[]) AND task.state = 'cancelled'
   AND attempt.task_id = task.id AND attempt.ended_at IS NULL;
