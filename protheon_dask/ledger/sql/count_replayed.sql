-- count_replayed: rejects of a run's files that a replay took up, by the replay.
-- Params: run_id bigint   Returns: one row a replay: (run_id, n), the latest first
-- The same rejects as report_rejects shows.   Index: run_load_pkey, load_replay_of, reject_load.
WITH family AS (
    SELECT DISTINCT coalesce(load.replay_of, load.id) AS load_id
      FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
     WHERE run_load.run_id = %(run_id)s
)
SELECT reject.replayed_by AS run_id, count(*) AS n
  FROM family
  JOIN protheon.load ON load.id = family.load_id OR load.replay_of = family.load_id
  JOIN protheon.reject ON reject.load_id = load.id
 WHERE reject.replayed_by IS NOT NULL
 GROUP BY reject.replayed_by
 ORDER BY reject.replayed_by DESC;
