-- undo_counts: rows of loads that were deleted, by table.
-- Params: load_ids bigint[]   Returns: (table_name, deleted_rows), by name   Index: undo_count_pkey.
SELECT table_name, sum(deleted_rows)::bigint AS deleted_rows
  FROM protheon.undo_count WHERE load_id = ANY(%(load_ids)s::bigint[])
 GROUP BY table_name ORDER BY table_name;
