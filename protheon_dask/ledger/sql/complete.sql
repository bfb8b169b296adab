-- complete: close a running attempt as succeeded; the last statement of its data transaction.
-- Params: task_id bigint, attempt_no integer, result jsonb? (of other handlers than ingest), the counts of lines, the bytes and the
--         stages' seconds, now timestamptz?
-- Returns: task_id, or no row: the lease has moved on. The caller raises LeaseLost and rolls back.
-- Locks: task, then attempt (the order of claim). Nothing shared is touched: counts of runs and loads are sums.
-- Index: task_pkey, attempt_pkey. ended_at is the clock's time, not the transaction's start.
WITH moved AS (
    UPDATE protheon.task SET state = 'succeeded', lease_until_at = NULL, result = %(result)s::jsonb
     WHERE id = %(task_id)s AND state = 'running' AND attempt_no = %(attempt_no)s
 RETURNING id
)
UPDATE protheon.attempt
   SET ended_at = coalesce(%(now)s, clock_timestamp()), outcome = 'succeeded', cost = 'nothing',
       loaded = %(loaded)s, filtered = %(filtered)s, rejected = %(rejected)s, blank = %(blank)s, rejected_parts = %(rejected_parts)s,
       raw_bytes = %(raw_bytes)s, wire_bytes = %(wire_bytes)s,
       wait_s = %(wait_s)s, fetch_s = %(fetch_s)s, decompress_s = %(decompress_s)s, transform_s = %(transform_s)s,
       copy_s = %(copy_s)s, merge_s = %(merge_s)s, ledger_s = %(ledger_s)s
  FROM moved
 WHERE attempt.task_id = moved.id AND attempt.attempt_no = %(attempt_no)s AND attempt.ended_at IS NULL
RETURNING attempt.task_id;
