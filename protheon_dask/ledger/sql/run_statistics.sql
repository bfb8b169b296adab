-- run_statistics: one run in numbers: committed work over its loads, and its own share.
-- Params: run_id bigint, now timestamptz?   Returns: one row (see telemetry.statistics.RunStatistics), or none
-- Index: run_load_pkey, task_load, attempt_pkey, attempt_run, dead_letter_open, load_owner.
WITH joined AS (
    SELECT load.id, bool_or(run_load.joined = 'skipped') AS skipped, bool_or(run_load.joined = 'attached') AS attached
      FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
     WHERE run_load.run_id = %(run_id)s
     GROUP BY load.id
), files AS (
    SELECT count(*) AS files,
           count(*) FILTER (WHERE load.finished_at IS NOT NULL) AS files_done,
           count(*) FILTER (WHERE joined.skipped) AS skipped_files,
           count(*) FILTER (WHERE joined.attached) AS attached_files,
           coalesce(bool_and(load.split_state NOT IN ('pending', 'splitting')), true) AS split_done,
           coalesce(sum(CASE WHEN load.split_state IN ('pending', 'splitting') THEN load.estimated_lines ELSE 0 END), 0)::bigint AS estimated_open
      FROM joined JOIN protheon.load ON load.id = joined.id
), cut AS (
    SELECT coalesce(sum(chunk.n_lines), 0)::bigint AS cut_lines,
           coalesce(sum(chunk.n_lines) FILTER (WHERE load.split_state NOT IN ('pending', 'splitting')), 0)::bigint AS final_lines,
           coalesce(sum(chunk.n_lines) FILTER (WHERE load.split_state IN ('pending', 'splitting')), 0)::bigint AS open_lines
      FROM joined JOIN protheon.load ON load.id = joined.id JOIN protheon.chunk ON chunk.load_id = load.id
), tasks AS (
    SELECT count(*) AS chunks,
           count(*) FILTER (WHERE task.state = 'ready') AS chunks_ready,
           count(*) FILTER (WHERE task.state = 'ready' AND task.ready_at > coalesce(%(now)s, now())) AS chunks_later,
           extract(epoch FROM min(task.ready_at) FILTER (WHERE task.state = 'ready') - coalesce(%(now)s, now()))::double precision AS next_try_s,
           count(*) FILTER (WHERE task.state = 'running') AS chunks_running,
           count(*) FILTER (WHERE task.state = 'succeeded') AS chunks_done,
           count(*) FILTER (WHERE task.state = 'dead') AS chunks_dead,
           count(*) FILTER (WHERE task.state = 'cancelled') AS chunks_cancelled,
           coalesce(sum(attempt.lines), 0)::bigint AS lines,
           coalesce(sum(attempt.loaded), 0)::bigint AS loaded,
           coalesce(sum(attempt.filtered), 0)::bigint AS filtered,
           coalesce(sum(attempt.rejected), 0)::bigint AS rejected,
           coalesce(sum(attempt.blank), 0)::bigint AS blank,
           coalesce(sum(attempt.rejected_parts), 0)::bigint AS rejected_parts,
           coalesce(sum(attempt.raw_bytes), 0)::bigint AS raw_bytes,
           coalesce(sum(attempt.lines) FILTER (WHERE attempt.run_id = %(run_id)s), 0)::bigint AS own_lines,
           coalesce(sum(attempt.raw_bytes) FILTER (WHERE attempt.run_id = %(run_id)s), 0)::bigint AS own_raw_bytes,
           coalesce(sum(attempt.wait_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS wait_s,
           coalesce(sum(attempt.fetch_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS fetch_s,
           coalesce(sum(attempt.decompress_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS decompress_s,
           coalesce(sum(attempt.transform_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS transform_s,
           coalesce(sum(attempt.copy_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS copy_s,
           coalesce(sum(attempt.merge_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS merge_s,
           coalesce(sum(attempt.ledger_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS ledger_s,
           coalesce(sum(attempt.commit_s) FILTER (WHERE attempt.run_id = %(run_id)s), 0) AS commit_s
      FROM joined JOIN protheon.task ON task.load_id = joined.id
      LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no AND attempt.outcome = 'succeeded'
)
SELECT run.id AS run, run.state, run.state_reason AS reason, run.pipeline_name AS pipeline, run.paths, run.notices, run.wire_bytes,
       extract(epoch FROM coalesce(run.ended_at, %(now)s, now()) - run.submitted_at)::double precision AS seconds,
       files.files, files.files_done, files.skipped_files, files.attached_files, files.split_done,
       cut.final_lines + greatest(files.estimated_open, cut.open_lines) AS estimated_lines,
       tasks.*,
       tasks.chunks_dead - CASE WHEN tasks.chunks_dead = 0 THEN 0 ELSE  -- those that a person gave up
            (SELECT count(*) FROM joined JOIN protheon.task ON task.load_id = joined.id AND task.state = 'dead'
               JOIN protheon.dead_letter ON dead_letter.task_id = task.id AND dead_letter.replayed_at IS NULL AND dead_letter.purged_at IS NOT NULL)
            END AS dead_letters,
       coalesce(CASE WHEN run.state IN ('cancelled', 'paused', 'incomplete')  -- also in report_runs
                     THEN (SELECT array_agg(DISTINCT load.owner_run_id) FILTER (WHERE load.owner_run_id <> run.id AND NOT joined.skipped AND NOT joined.attached)
                             FROM joined JOIN protheon.load ON load.id = joined.id
                           HAVING bool_and(load.owner_run_id <> run.id OR load.finished_at IS NOT NULL)) END, '{}') AS gone_on_by,
       (SELECT count(*) FROM protheon.attempt WHERE attempt.run_id = run.id AND attempt.attempt_no > 1) AS retries,
       coalesce(ahead.runs, '{}') AS behind, coalesce(ahead.chunks, 0) AS chunks_before, failure.error_class AS last_error, failure.message AS last_message
  FROM protheon.run CROSS JOIN files CROSS JOIN cut CROSS JOIN tasks CROSS JOIN LATERAL (
       -- chunks of other runs that are taken before its first one; up to 1,000, for this is asked twice a second
       SELECT array_agg(DISTINCT chunk.run_id) AS runs, count(*) AS chunks
         FROM (SELECT other.id AS run_id
                 FROM protheon.run AS other JOIN protheon.load ON load.owner_run_id = other.id AND load.finished_at IS NULL
                 CROSS JOIN LATERAL (  -- OFFSET: else the planner may walk the key of all tasks there ever were
                      SELECT task.id FROM protheon.task WHERE task.load_id = load.id AND task.state IN ('ready', 'running') OFFSET 0) AS its
                WHERE run.state = 'running' AND tasks.chunks_ready > 0 AND tasks.chunks_running = 0
                  AND other.id <> run.id AND other.state = 'running'
                  AND its.id < (SELECT min(own.id) FROM joined JOIN protheon.task AS own ON own.load_id = joined.id WHERE own.state = 'ready')
                LIMIT 1000) AS chunk) AS ahead
  LEFT JOIN LATERAL (  -- of the one that is tried again first, where nothing else is left to be done at this moment
       SELECT attempt.error_class, attempt.message
         FROM (SELECT own.id, own.attempt_no
                 FROM joined JOIN protheon.task AS own ON own.load_id = joined.id AND own.state = 'ready'
                WHERE run.state = 'running' AND tasks.chunks_running = 0 AND tasks.chunks_later = tasks.chunks_ready
                ORDER BY own.ready_at, own.id
                LIMIT 1) AS first
         JOIN protheon.attempt ON attempt.task_id = first.id AND attempt.attempt_no = first.attempt_no) AS failure ON true
 WHERE run.id = %(run_id)s;
