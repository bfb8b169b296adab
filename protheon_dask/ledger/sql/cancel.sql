-- cancel: cancel the ready and running tasks of the loads that a cancelled run owns; repeated until it returns no row.
-- Params: none   Returns: (task_id, attempt_no, was_running boolean)
-- A row that is locked is completing or being claimed: it is left for the next call.
-- Attempts are ended by end_cancelled, which comes next.
-- Locks: task in order of id, never waiting.   Index: task_load.
WITH picked AS (
    SELECT task.id, task.attempt_no, task.state
      FROM protheon.run
      JOIN protheon.load ON load.owner_run_id = run.id
      JOIN protheon.task ON task.load_id = load.id
     WHERE run.state = 'cancelled' AND load.finished_at IS NULL AND task.state IN ('ready', 'running')
     ORDER BY task.id
       FOR NO KEY UPDATE OF task SKIP LOCKED
), moved AS (
    UPDATE protheon.task SET state = 'cancelled', lease_until_at = NULL
      FROM picked
     WHERE task.id = picked.id
 RETURNING task.id, picked.attempt_no, picked.state = 'running' AS was_running
)
SELECT id AS task_id, attempt_no, was_running FROM moved;
