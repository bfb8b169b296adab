-- story_bins: what a run's own attempts brought, and how they failed, by the piece of time in which they ended.
-- Params: run_id bigint, bin_s double precision, n_bins integer
-- Returns: one row a piece in which one ended: (bin_no from 0, lines, raw_bytes, wire_bytes, rejects, dead_letters, failed, released, crashed,
--          expired: those of that outcome which were to be tried again)
-- What ended after the last piece, such as the attempts of a run that was cancelled, belongs to it. Lines beside rejects: parts of lines count
-- as rejects too.
-- Index: attempt_run, dead_letter_pkey.
SELECT least(floor(greatest(extract(epoch FROM attempt.ended_at - run.submitted_at)::double precision, 0) / %(bin_s)s), %(n_bins)s - 1)::integer AS bin_no,
       coalesce(sum(attempt.lines) FILTER (WHERE attempt.outcome = 'succeeded'), 0)::bigint AS lines,
       sum(attempt.raw_bytes)::bigint AS raw_bytes, sum(attempt.wire_bytes)::bigint AS wire_bytes,
       sum(attempt.rejected + attempt.rejected_parts)::bigint AS rejects,
       count(letter.task_id) AS dead_letters,
       count(*) FILTER (WHERE attempt.outcome = 'failed' AND letter.task_id IS NULL) AS failed,
       count(*) FILTER (WHERE attempt.outcome = 'released' AND letter.task_id IS NULL) AS released,
       count(*) FILTER (WHERE attempt.outcome = 'crashed' AND letter.task_id IS NULL) AS crashed,
       count(*) FILTER (WHERE attempt.outcome = 'expired' AND letter.task_id IS NULL) AS expired
  FROM protheon.run
  JOIN protheon.attempt ON attempt.run_id = run.id AND attempt.ended_at IS NOT NULL
  LEFT JOIN protheon.dead_letter AS letter ON letter.task_id = attempt.task_id AND letter.attempt_no = attempt.attempt_no
 WHERE run.id = %(run_id)s
 GROUP BY bin_no
 ORDER BY bin_no;
