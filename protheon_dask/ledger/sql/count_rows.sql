-- count_rows: a chunk's rows, one row a table, in its data transaction before complete.
-- Params: task_id bigint, attempt_no integer, table_names text[], offered, inserted, updated, ignored, checksums, compared bigint[] (all of one length)
-- Returns: nothing. The CHECK rows_are_accounted_for holds the identity.   Locks: the new rows.   Index: attempt_pkey (the foreign key).
INSERT INTO protheon.table_count (task_id, attempt_no, table_name, offered, inserted, updated, ignored, checksum, compared)
SELECT %(task_id)s, %(attempt_no)s, counted.*
  FROM unnest(%(table_names)s::text[], %(offered)s::bigint[], %(inserted)s::bigint[], %(updated)s::bigint[], %(ignored)s::bigint[],
              %(checksums)s::bigint[], %(compared)s::bigint[]) AS counted;
