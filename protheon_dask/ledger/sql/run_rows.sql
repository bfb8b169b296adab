-- run_rows: rows by table over a run's loads.
-- Params: run_id bigint   Returns: (table, offered, inserted, updated, ignored), by name   Index: run_load_pkey, task_load, table_count_pkey.
SELECT table_count.table_name AS "table", sum(offered)::bigint AS offered, sum(inserted)::bigint AS inserted,
       sum(updated)::bigint AS updated, sum(ignored)::bigint AS ignored
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.task ON task.load_id = joined.load_id AND task.state = 'succeeded'
  JOIN protheon.table_count ON table_count.task_id = task.id AND table_count.attempt_no = task.attempt_no
 GROUP BY table_count.table_name
 ORDER BY table_count.table_name;
