-- count_undone: rows of a load that were deleted from a table, in the transaction that deletes them.
-- Params: load_id bigint, table_name text, deleted_rows bigint   Returns: nothing   Locks: undo_count.   Index: undo_count_pkey.
UPDATE protheon.undo_count SET deleted_rows = deleted_rows + %(deleted_rows)s WHERE load_id = %(load_id)s AND table_name = %(table_name)s;
