-- dead_letter: end a running attempt without effect and give its task up.
-- Params: as release without ready_in_s; reason text
-- Returns: task_id, or no row: it is no longer that attempt's. The caller raises LeaseLost.
-- Locks: task, then attempt, then the new dead letter.   Index: task_pkey, attempt_pkey.
WITH moved AS (
    UPDATE protheon.task
       SET state = 'dead', lease_until_at = NULL,
           failures = failures + (%(cost)s = 'failure')::integer,
           crashes = crashes + (%(cost)s = 'crash')::integer,
           losses = losses + (%(cost)s = 'loss')::integer
     WHERE id = %(task_id)s AND state = 'running' AND attempt_no = %(attempt_no)s
 RETURNING id
), ended AS (
    UPDATE protheon.attempt
       SET ended_at = coalesce(%(now)s, clock_timestamp()), outcome = %(outcome)s, cost = %(cost)s,
           error_class = %(error_class)s, message = %(message)s, traceback = %(traceback)s, sqlstate = %(sqlstate)s,
           wait_s = %(wait_s)s, fetch_s = %(fetch_s)s, decompress_s = %(decompress_s)s, transform_s = %(transform_s)s,
           copy_s = %(copy_s)s, merge_s = %(merge_s)s, ledger_s = %(ledger_s)s, commit_s = %(commit_s)s
      FROM moved
     WHERE attempt.task_id = moved.id AND attempt.attempt_no = %(attempt_no)s AND attempt.ended_at IS NULL
 RETURNING attempt.task_id, attempt.attempt_no
)
INSERT INTO protheon.dead_letter (task_id, attempt_no, reason, died_at)
SELECT ended.task_id, ended.attempt_no, %(reason)s, coalesce(%(now)s, clock_timestamp()) FROM ended
RETURNING task_id;
