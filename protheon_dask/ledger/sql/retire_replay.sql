-- retire_replay: nothing more of a replay is loaded; the lines that wait in it are free for another one.
-- Params: load_id bigint, now timestamptz?   Returns: task_id of each task that was stopped
-- A task that is completing is waited for: afterwards each line of it is either replayed or free, for good. Attempts are ended by
-- end_cancelled, which comes next.
-- Locks: load, then task in order of id.   Index: load_pkey, task_load.
WITH retired AS (
    UPDATE protheon.load SET retired_at = coalesce(%(now)s, now())
     WHERE id = %(load_id)s AND replay_of IS NOT NULL AND finished_at IS NULL AND retired_at IS NULL
 RETURNING id
), picked AS (
    SELECT task.id
      FROM retired JOIN protheon.task ON task.load_id = retired.id
     WHERE task.state IN ('ready', 'running')
     ORDER BY task.id
       FOR NO KEY UPDATE OF task
), stopped AS (
    UPDATE protheon.task SET state = 'cancelled', lease_until_at = NULL
      FROM picked
     WHERE task.id = picked.id
 RETURNING task.id
)
SELECT id AS task_id FROM stopped ORDER BY id;
