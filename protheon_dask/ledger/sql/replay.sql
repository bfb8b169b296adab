-- replay: make the dead and cancelled tasks of a load ready again, counters at zero, attempts kept; those of a retired load stay as they are.
-- Params: load_id bigint, now timestamptz?   Returns: task_id of each
-- Locks: task, then dead_letter.   Index: task_load.
WITH again AS (
    UPDATE protheon.task
       SET state = 'ready', failures = 0, crashes = 0, losses = 0, ready_at = coalesce(%(now)s, now())
     WHERE load_id = %(load_id)s AND state IN ('dead', 'cancelled')
       AND EXISTS (SELECT FROM protheon.load WHERE load.id = task.load_id AND load.retired_at IS NULL)
 RETURNING id
), closed AS (
    UPDATE protheon.dead_letter SET replayed_at = coalesce(%(now)s, now())
      FROM again
     WHERE dead_letter.task_id = again.id AND dead_letter.replayed_at IS NULL
)
SELECT id AS task_id FROM again ORDER BY id;
