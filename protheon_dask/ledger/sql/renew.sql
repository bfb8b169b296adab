-- renew: extend the leases of a process's open attempts in one statement.
-- Params: task_ids bigint[], attempt_nos integer[] (pairs), lease_s double precision, now timestamptz?
-- Returns: (task_id, attempt_no, renewed boolean): renewed, or false where the row is locked: a completion or an ending in progress.
-- A pair without a row is no longer ours, or its run was cancelled: the caller closes that attempt's data connection at once.
-- Locks: task, in order of id, never waiting.   Index: task_pkey. HOT: lease_until_at is in no index.
WITH asked AS (
    SELECT * FROM unnest(%(task_ids)s::bigint[], %(attempt_nos)s::integer[]) AS pair (task_id, attempt_no)
), ours AS (
    SELECT task.id, task.attempt_no
      FROM asked
      JOIN protheon.task ON task.id = asked.task_id AND task.attempt_no = asked.attempt_no AND task.state = 'running'
      LEFT JOIN protheon.load ON load.id = task.load_id
      LEFT JOIN protheon.run ON run.id = load.owner_run_id
     WHERE run.state IS DISTINCT FROM 'cancelled'
), free AS (
    SELECT task.id, task.attempt_no
      FROM protheon.task
     WHERE (task.id, task.attempt_no) IN (SELECT ours.id, ours.attempt_no FROM ours) AND task.state = 'running'
     ORDER BY task.id
       FOR NO KEY UPDATE SKIP LOCKED
), renewed AS (
    UPDATE protheon.task
       SET lease_until_at = coalesce(%(now)s, now()) + make_interval(secs => %(lease_s)s)
      FROM free
     WHERE task.id = free.id AND task.state = 'running' AND task.attempt_no = free.attempt_no
 RETURNING task.id
)
SELECT ours.id AS task_id, ours.attempt_no, renewed.id IS NOT NULL AS renewed
  FROM ours LEFT JOIN renewed ON renewed.id = ours.id;
