-- picture_runs: which runs a picture of the cluster shows: those that are at work or paused, and the newest.
-- Params: newest integer, live integer (at most so many of each)   Returns: (id, is_live, mark: changes with what its statistics tell of
--         an ended run), the newest first   Index: run_open, run_pkey.
SELECT run.id, run.ended_at IS NULL AS is_live, concat_ws(' ', run.state, run.ended_at, run.wire_bytes) AS mark
  FROM protheon.run
 WHERE run.id IN (SELECT id FROM protheon.run WHERE ended_at IS NULL ORDER BY id DESC LIMIT %(live)s)
    OR run.id IN (SELECT id FROM protheon.run ORDER BY id DESC LIMIT %(newest)s)
 ORDER BY run.id DESC;
