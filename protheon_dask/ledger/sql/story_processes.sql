-- story_processes: for how long each worker process was at a run, and for how much of that it had one of its chunks.
-- Params: run_id bigint, limit integer
-- Returns: one row a process that ended an attempt of the run, those with most attempts first: first_s and last_s, seconds after the run was
--          submitted at which it began its first attempt and ended its last one; busy_s, seconds of all its attempts
-- A process that died has another one after it, of the same name: what the ledger knows of nobody is no waiting.
-- Index: run_pkey, attempt_run.
SELECT extract(epoch FROM min(attempt.started_at) - min(run.submitted_at))::double precision AS first_s,
       extract(epoch FROM max(attempt.ended_at) - min(run.submitted_at))::double precision AS last_s,
       extract(epoch FROM sum(attempt.ended_at - attempt.started_at))::double precision AS busy_s
  FROM protheon.run
  JOIN protheon.attempt ON attempt.run_id = run.id AND attempt.ended_at IS NOT NULL
 WHERE run.id = %(run_id)s AND attempt.worker <> 'splitter'
 GROUP BY attempt.process_uuid
 ORDER BY count(*) DESC, first_s
 LIMIT %(limit)s;
