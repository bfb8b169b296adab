-- undoing_tables: tables of a run in which new rows would meet rows of a load that are being deleted just now, or refer to them: by the
-- rule of that load, or by the run's own.
-- Params: run_id bigint   Returns: (table_name, load_id)   Index: load_undoing, undo_count_pkey, pipeline_pkey.
SELECT undo_count.table_name, load.id AS load_id
  FROM protheon.load
  JOIN protheon.undo_count ON undo_count.load_id = load.id
  JOIN protheon.pipeline ON pipeline.run_id = %(run_id)s
 WHERE load.undo_started_at IS NOT NULL AND load.undone_at IS NULL
   AND EXISTS (SELECT FROM json_array_elements(pipeline.tables::json) AS declared
                WHERE declared ->> 'name' = undo_count.table_name AND (undo_count.keeps_out OR declared ->> 'on_conflict' <> 'error'))
 ORDER BY 1, 2;
