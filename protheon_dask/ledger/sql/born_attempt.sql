-- born_attempt: the attempt of an oversized line, succeeded at birth with its one reject, in the manifest's transaction.
-- Params: task_id, run_id bigint, token, process_uuid uuid, host text, raw_bytes bigint, now timestamptz?
-- Returns: task_id, or no row: it was born already (the manifest came twice)   Locks: task, the new row.
WITH moved AS (
    UPDATE protheon.task SET attempt_no = 1 WHERE id = %(task_id)s AND state = 'succeeded' AND attempt_no = 0 RETURNING id
)
INSERT INTO protheon.attempt (task_id, attempt_no, token, run_id, process_uuid, worker, host, started_at, ended_at, outcome, cost, lines, rejected, raw_bytes)
SELECT moved.id, 1, %(token)s, %(run_id)s, %(process_uuid)s, 'splitter', %(host)s, coalesce(%(now)s, now()), coalesce(%(now)s, now()),
       'succeeded', 'nothing', 1, 1, %(raw_bytes)s
  FROM moved
RETURNING task_id;
