-- story_spans: a run's own attempts one by one, or as many of them as are asked for.
-- Params: run_id bigint, limit integer
-- Returns: one row an attempt, in order of their start; seconds since the run was submitted; message: its first 500 characters
-- Of more than limit, those that are open or ended without effect come first, and up to a fifth of the places is kept for the others, so that
-- these are never lost sight of; of each kind evenly many from its beginning to its end: the n-th of n is taken where n * k / all steps up.
-- Index: attempt_run, attempt_pkey, task_pkey, chunk_pkey, load_pkey.
WITH own AS (
    SELECT task_id, attempt_no, started_at, outcome IS DISTINCT FROM 'succeeded' AS is_odd
      FROM protheon.attempt
     WHERE run_id = %(run_id)s
), placed AS (
    SELECT task_id, attempt_no, is_odd, row_number() OVER (PARTITION BY is_odd ORDER BY started_at, task_id, attempt_no) AS no
      FROM own
), counted AS (
    SELECT count(*) FILTER (WHERE is_odd) AS n_odd, count(*) FILTER (WHERE NOT is_odd) AS n_even FROM own
), given AS (
    SELECT n_odd, n_even, least(n_odd, greatest(%(limit)s - n_even, %(limit)s - %(limit)s / 5)) AS k_odd FROM counted
), chosen AS (
    SELECT placed.task_id, placed.attempt_no
      FROM given CROSS JOIN LATERAL (
           VALUES (true, n_odd, k_odd), (false, n_even, least(n_even, %(limit)s - k_odd))) AS kind (is_odd, n, k)
      JOIN placed ON placed.is_odd = kind.is_odd
     WHERE placed.no * kind.k / kind.n <> (placed.no - 1) * kind.k / kind.n
)
SELECT attempt.task_id, attempt.attempt_no, chunk.chunk_no, coalesce('rejects of run ' || original.owner_run_id, load.path) AS path,
       attempt.worker, attempt.host, extract(epoch FROM attempt.started_at - run.submitted_at)::double precision AS start_s,
       extract(epoch FROM attempt.ended_at - run.submitted_at)::double precision AS end_s,
       attempt.outcome, attempt.cost, attempt.error_class, left(attempt.message, 500) AS message, coalesce(attempt.lines, 0) AS lines,
       attempt.wait_s, attempt.fetch_s, attempt.decompress_s, attempt.transform_s, attempt.copy_s, attempt.merge_s, attempt.ledger_s,
       attempt.commit_s
  FROM chosen
  JOIN protheon.attempt ON attempt.task_id = chosen.task_id AND attempt.attempt_no = chosen.attempt_no
  JOIN protheon.run ON run.id = attempt.run_id
  JOIN protheon.task ON task.id = attempt.task_id
  LEFT JOIN protheon.chunk ON chunk.task_id = task.id
  LEFT JOIN protheon.load ON load.id = task.load_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
 ORDER BY attempt.started_at, attempt.task_id, attempt.attempt_no;
