-- report_rejects: refused lines, and parts of lines, of a run's loads.
-- Params: run_id bigint, limit integer, reject_id bigint?   Returns: one row a reject, by load and line   Index: run_load_pkey, reject_load.
SELECT reject.id, reject.load_id, load.path, reject.task_id, reject.line, reject.byte_offset, reject.part, reject.reason, reject.sqlstate,
       reject.table_name, reject.raw, reject.raw_bytes, reject.replayed_by
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.reject ON reject.load_id = joined.load_id
  JOIN protheon.load ON load.id = reject.load_id
 WHERE %(reject_id)s::bigint IS NULL OR reject.id = %(reject_id)s
 ORDER BY reject.load_id, reject.line, reject.id
 LIMIT %(limit)s;
