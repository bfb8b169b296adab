-- host_rates: how fast each host's workers were in one run, by its own attempts that succeeded.
-- Params: run_id bigint
-- Returns: one row a host, by name: (host, n_workers, raw_bytes, busy_s: seconds of all stages, over all its workers)
-- Locks: none.   Index: attempt_run.
SELECT host, count(DISTINCT worker)::integer AS n_workers, sum(raw_bytes)::bigint AS raw_bytes,
       sum(wait_s + fetch_s + decompress_s + transform_s + copy_s + merge_s + ledger_s + commit_s)::double precision AS busy_s
  FROM protheon.attempt
 WHERE run_id = %(run_id)s AND outcome = 'succeeded' AND lines IS NOT NULL
 GROUP BY host
 ORDER BY host;
