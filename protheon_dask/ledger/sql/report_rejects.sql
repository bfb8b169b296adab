-- report_rejects: refused lines, and parts of lines, of a run's files: those that are still refused first, then those that were replayed.
-- Params: run_id bigint, limit integer? (NULL: all), reject_id bigint?, replayed boolean (false: without those that were replayed)
-- Returns: one row a reject: (id, load_id, run_id: which has that load now, path: of the source that the line is of, task_id, line, byte_offset, part, reason, sqlstate,
--          table_name, raw, raw_bytes, replayed_by), by file and line
-- A replay is about the loads that it replays: what one run of a file refused, another may have loaded.
-- Index: run_load_pkey, load_replay_of, reject_load.
WITH family AS (
    SELECT DISTINCT coalesce(load.replay_of, load.id) AS load_id
      FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
     WHERE run_load.run_id = %(run_id)s
)
SELECT reject.id, original.id AS load_id, original.owner_run_id AS run_id, original.path, reject.task_id, reject.line,
       reject.byte_offset, reject.part, reject.reason, reject.sqlstate, reject.table_name, reject.raw, reject.raw_bytes, reject.replayed_by
  FROM family
  JOIN protheon.load AS original ON original.id = family.load_id
  JOIN protheon.load ON load.id = original.id OR load.replay_of = original.id
  JOIN protheon.reject ON reject.load_id = load.id
 WHERE (%(reject_id)s::bigint IS NULL OR reject.id = %(reject_id)s)
   AND (%(replayed)s OR reject.replayed_by IS NULL)
 ORDER BY reject.replayed_by IS NOT NULL, original.id, reject.line, reject.id
 LIMIT %(limit)s;
