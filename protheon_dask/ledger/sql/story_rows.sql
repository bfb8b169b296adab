-- story_rows: rows that a run's own attempts offered, by the piece of time in which they were committed.
-- Params: run_id bigint, bin_s double precision, n_bins integer
-- Returns: one row a piece in which some were: (bin_no from 0, rows), as story_bins has its pieces
-- Index: attempt_run, table_count_pkey.
SELECT least(floor(greatest(extract(epoch FROM attempt.ended_at - run.submitted_at)::double precision, 0) / %(bin_s)s), %(n_bins)s - 1)::integer AS bin_no,
       sum(counted.offered)::bigint AS rows
  FROM protheon.run
  JOIN protheon.attempt ON attempt.run_id = run.id AND attempt.outcome = 'succeeded'
  JOIN protheon.table_count AS counted ON counted.task_id = attempt.task_id AND counted.attempt_no = attempt.attempt_no
 WHERE run.id = %(run_id)s
 GROUP BY bin_no
 ORDER BY bin_no;
