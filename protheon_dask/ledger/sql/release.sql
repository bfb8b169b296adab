-- release: end a running attempt without effect and make its task ready again.
-- Params: task_id bigint, attempt_no integer, outcome text, cost text, ready_in_s double precision,
--         error_class, message, traceback, sqlstate text, now timestamptz?, seconds of each stage until then
-- Returns: task_id, or no row: it is no longer that attempt's. The caller raises LeaseLost.
-- Locks: task, then attempt.   Index: task_pkey, attempt_pkey.
WITH moved AS (
    UPDATE protheon.task
       SET state = 'ready', lease_until_at = NULL,
           ready_at = coalesce(%(now)s, now()) + make_interval(secs => %(ready_in_s)s),
           failures = failures + (%(cost)s = 'failure')::integer,
           crashes = crashes + (%(cost)s = 'crash')::integer,
           losses = losses + (%(cost)s = 'loss')::integer
     WHERE id = %(task_id)s AND state = 'running' AND attempt_no = %(attempt_no)s
 RETURNING id
)
UPDATE protheon.attempt
   SET ended_at = coalesce(%(now)s, clock_timestamp()), outcome = %(outcome)s, cost = %(cost)s,
       error_class = %(error_class)s, message = %(message)s, traceback = %(traceback)s, sqlstate = %(sqlstate)s,
       wait_s = %(wait_s)s, fetch_s = %(fetch_s)s, decompress_s = %(decompress_s)s, transform_s = %(transform_s)s,
       copy_s = %(copy_s)s, merge_s = %(merge_s)s, ledger_s = %(ledger_s)s, commit_s = %(commit_s)s
  FROM moved
 WHERE attempt.task_id = moved.id AND attempt.attempt_no = %(attempt_no)s AND attempt.ended_at IS NULL
RETURNING attempt.task_id;
