-- story_run: what a run's story says of the run as a whole.
-- Params: run_id bigint
-- Returns: one row, or none: when it was submitted and ended, the settings that it was given, the geometry of its loads, the versions of
--          Python and libraries where its pipeline travelled by value (JSON), who made its own attempts, and how long after it was submitted
--          the last chunk was cut (below 0: before)
-- A splitter gives birth to the attempt of an oversized line: it is no worker.
-- Index: run_pkey, pipeline_pkey, run_load_pkey, chunk_load_id_chunk_no_key, task_pkey, attempt_run.
WITH own AS (
    SELECT host, worker, count(*) AS n FROM protheon.attempt WHERE run_id = %(run_id)s GROUP BY host, worker
)
SELECT extract(epoch FROM run.submitted_at)::double precision AS submitted_at, extract(epoch FROM run.ended_at)::double precision AS ended_at,
       run.pipeline_version, run.chunk_lines, run.reject_limit_lines, run.reject_limit_fraction, run.checksum, pipeline.reference, pipeline.versions,
       (SELECT min(load.chunk_lines) FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
         WHERE run_load.run_id = run.id) AS least_chunk_lines,
       (SELECT max(load.chunk_lines) FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
         WHERE run_load.run_id = run.id) AS most_chunk_lines,
       (SELECT extract(epoch FROM max(task.created_at) - run.submitted_at)::double precision
          FROM protheon.run_load
         CROSS JOIN LATERAL (SELECT task_id FROM protheon.chunk WHERE chunk.load_id = run_load.load_id ORDER BY chunk_no DESC LIMIT 1) AS latest
          JOIN protheon.task ON task.id = latest.task_id
         WHERE run_load.run_id = run.id) AS cut_s,
       (SELECT coalesce(sum(n), 0)::bigint FROM own) AS n_attempts,
       (SELECT count(*) FROM own WHERE worker <> 'splitter') AS n_workers,
       (SELECT count(DISTINCT host) FROM own WHERE worker <> 'splitter') AS n_hosts
  FROM protheon.run LEFT JOIN protheon.pipeline ON pipeline.run_id = run.id
 WHERE run.id = %(run_id)s;
