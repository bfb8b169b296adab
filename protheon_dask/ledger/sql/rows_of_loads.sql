-- rows_of_loads: what loads together brought into their tables.
-- Params: load_ids bigint[]   Returns: (table_name, inserted, updated, has_checksums boolean), by name   Index: task_load, table_count_pkey.
SELECT counted.table_name, sum(counted.inserted)::bigint AS inserted, sum(counted.updated)::bigint AS updated,
       bool_or(counted.checksum IS NOT NULL) AS has_checksums
  FROM protheon.task
  JOIN protheon.table_count AS counted ON counted.task_id = task.id AND counted.attempt_no = task.attempt_no
 WHERE task.load_id = ANY(%(load_ids)s::bigint[]) AND task.state = 'succeeded'
 GROUP BY counted.table_name
 ORDER BY counted.table_name;
