-- expire: lock running tasks whose lease ran out, or whose process is known to be gone, for the caller to release or dead-letter
-- in the same transaction (what it costs is policy's decision, not SQL's).
-- Params: epoch bigint, task_ids bigint[], attempt_nos integer[] (attempts known to be gone: pairs), now timestamptz?
-- Returns: (task_id, attempt_no, known_gone boolean, failures, crashes, losses)
-- No row while another broker leads. A locked row is a commit in progress and is left alone (stuck.sql sees to those).
-- Locks: leadership (share), then task, never waiting.   Index: task_running.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
), gone AS (
    SELECT * FROM unnest(%(task_ids)s::bigint[], %(attempt_nos)s::integer[]) AS pair (task_id, attempt_no)
)
SELECT task.id AS task_id, task.attempt_no,
       (task.id, task.attempt_no) IN (SELECT gone.task_id, gone.attempt_no FROM gone) AS known_gone,
       task.failures, task.crashes, task.losses
  FROM protheon.task
 WHERE task.state = 'running'
   AND EXISTS (SELECT FROM leader)
   AND (task.lease_until_at < coalesce(%(now)s, now())
        OR (task.id, task.attempt_no) IN (SELECT gone.task_id, gone.attempt_no FROM gone))
 ORDER BY task.id
   FOR NO KEY UPDATE OF task SKIP LOCKED;
