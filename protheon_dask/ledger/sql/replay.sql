-- replay: make dead tasks ready again, counters at zero, attempts and letters kept: those of a load, whose cancelled ones come too, or
-- some by their numbers. Those of a retired load stay as they are.
-- Params: load_id bigint?, task_ids bigint[], now timestamptz?   Returns: task_id of each
-- Locks: task in order of id, then dead_letter.   Index: task_load, task_pkey, dead_letter_open.
WITH picked AS (
    SELECT task.id
      FROM protheon.task LEFT JOIN protheon.load ON load.id = task.load_id
     WHERE ((task.load_id = %(load_id)s::bigint AND task.state IN ('dead', 'cancelled'))
            OR (task.id = ANY(%(task_ids)s::bigint[]) AND task.state = 'dead'))
       AND load.retired_at IS NULL
     ORDER BY task.id
       FOR NO KEY UPDATE OF task
), again AS (
    UPDATE protheon.task
       SET state = 'ready', failures = 0, crashes = 0, losses = 0, counted_after = task.attempt_no, ready_at = coalesce(%(now)s, now())
      FROM picked
     WHERE task.id = picked.id
 RETURNING task.id
), closed AS (
    UPDATE protheon.dead_letter SET replayed_at = coalesce(%(now)s, now())
      FROM again
     WHERE dead_letter.task_id = again.id AND dead_letter.replayed_at IS NULL
)
SELECT id AS task_id FROM again ORDER BY id;
