-- past_rates: how fast the newest runs of a pipeline went, by their own attempts that succeeded.
-- Params: pipeline_name, pipeline_version text, newest integer
-- Returns: one row a run that did something, the newest first: (run_id, n_workers, lines, raw_bytes, seconds: from the first start to the
--          last end, and the seconds of each stage, over all workers)
-- Locks: none.   Index: attempt_run; run is read from its newest on.
SELECT run.id AS run_id, own.*
  FROM (SELECT id FROM protheon.run
         WHERE pipeline_name = %(pipeline_name)s AND pipeline_version = %(pipeline_version)s
         ORDER BY id DESC LIMIT %(newest)s) AS run
 CROSS JOIN LATERAL (
       SELECT count(DISTINCT attempt.worker)::integer AS n_workers, sum(attempt.lines)::bigint AS lines, sum(attempt.raw_bytes)::bigint AS raw_bytes,
              extract(epoch FROM max(attempt.ended_at) - min(attempt.started_at))::double precision AS seconds,
              sum(attempt.wait_s)::double precision AS wait_s, sum(attempt.fetch_s)::double precision AS fetch_s,
              sum(attempt.decompress_s)::double precision AS decompress_s, sum(attempt.transform_s)::double precision AS transform_s,
              sum(attempt.copy_s)::double precision AS copy_s, sum(attempt.merge_s)::double precision AS merge_s,
              sum(attempt.ledger_s)::double precision AS ledger_s, sum(attempt.commit_s)::double precision AS commit_s
         FROM protheon.attempt
        WHERE attempt.run_id = run.id AND attempt.outcome = 'succeeded' AND attempt.lines IS NOT NULL) AS own
 WHERE own.lines > 0 AND own.raw_bytes > 0
 ORDER BY run.id DESC;
