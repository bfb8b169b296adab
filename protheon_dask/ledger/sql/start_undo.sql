-- start_undo: from here on the loads are retired, and their tables are known to lose rows.
-- Params: load_ids, root_ids bigint[], table_names text[], keeps_out boolean[] (beside them), now timestamptz?
-- Returns: nothing   Locks: load, the new rows.   Index: load_pkey, undo_count_pkey.
WITH started AS (
    UPDATE protheon.load
       SET undo_started_at = coalesce(undo_started_at, %(now)s, now()), retired_at = coalesce(retired_at, %(now)s, now())
     WHERE id = ANY(%(load_ids)s::bigint[])
)
INSERT INTO protheon.undo_count (load_id, table_name, keeps_out)
SELECT root_id, doomed.table_name, doomed.keeps_out
  FROM unnest(%(root_ids)s::bigint[]) AS root_id, unnest(%(table_names)s::text[], %(keeps_out)s::boolean[]) AS doomed (table_name, keeps_out)
ON CONFLICT DO NOTHING;
