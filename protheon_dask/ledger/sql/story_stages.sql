-- story_stages: seconds of each stage over time, of a run's own attempts that have ended, spread evenly over the time that each took.
-- Params: run_id bigint, bin_s double precision, n_bins integer
-- Returns: one row a piece of time in which one was at work: (bin_no from 0, seconds of each stage), as story_bins has its pieces
-- Most attempts lie within one piece: a series is made for the others alone (for all of 170,000 it took twice as long). Attempts of one
-- worker do not overlap, so that they make n_bins rows a worker at most.
-- Index: attempt_run.
WITH own AS MATERIALIZED (
    SELECT least(floor(greatest(start_s, 0) / %(bin_s)s), %(n_bins)s - 1)::integer AS first,
           least(floor(greatest(end_s, start_s, 0) / %(bin_s)s), %(n_bins)s - 1)::integer AS last, its.*
      FROM (SELECT extract(epoch FROM attempt.started_at - run.submitted_at)::double precision AS start_s,
                   extract(epoch FROM attempt.ended_at - run.submitted_at)::double precision AS end_s,
                   attempt.wait_s, attempt.fetch_s, attempt.decompress_s, attempt.transform_s, attempt.copy_s,
                   attempt.merge_s, attempt.ledger_s, attempt.commit_s
              FROM protheon.run JOIN protheon.attempt ON attempt.run_id = run.id AND attempt.ended_at IS NOT NULL
             WHERE run.id = %(run_id)s) AS its
), within_one AS (
    SELECT first AS bin_no, sum(wait_s) AS wait_s, sum(fetch_s) AS fetch_s, sum(decompress_s) AS decompress_s, sum(transform_s) AS transform_s,
           sum(copy_s) AS copy_s, sum(merge_s) AS merge_s, sum(ledger_s) AS ledger_s, sum(commit_s) AS commit_s
      FROM own
     WHERE first = last
     GROUP BY first
), across AS (
    SELECT piece.bin_no,
           sum(own.wait_s * piece.share) AS wait_s, sum(own.fetch_s * piece.share) AS fetch_s, sum(own.decompress_s * piece.share) AS decompress_s,
           sum(own.transform_s * piece.share) AS transform_s, sum(own.copy_s * piece.share) AS copy_s, sum(own.merge_s * piece.share) AS merge_s,
           sum(own.ledger_s * piece.share) AS ledger_s, sum(own.commit_s * piece.share) AS commit_s
      FROM own
     CROSS JOIN LATERAL (
           SELECT bin_no, (CASE WHEN bin_no = own.last THEN own.end_s ELSE (bin_no + 1) * %(bin_s)s END - greatest(own.start_s, bin_no * %(bin_s)s))
                          / (own.end_s - own.start_s) AS share
             FROM generate_series(own.first, own.last) AS bin_no) AS piece
     WHERE own.first < own.last
     GROUP BY piece.bin_no
)
SELECT bin_no, sum(wait_s) AS wait_s, sum(fetch_s) AS fetch_s, sum(decompress_s) AS decompress_s, sum(transform_s) AS transform_s,
       sum(copy_s) AS copy_s, sum(merge_s) AS merge_s, sum(ledger_s) AS ledger_s, sum(commit_s) AS commit_s
  FROM (SELECT * FROM within_one UNION ALL SELECT * FROM across) AS both_kinds
 GROUP BY bin_no
 ORDER BY bin_no;
