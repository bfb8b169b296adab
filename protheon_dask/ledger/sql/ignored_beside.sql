-- ignored_beside: rows of other loads that a table's conflict rule passed over since these loads began: they may stand on rows of these.
-- Params: load_ids bigint[], table_names text[]   Returns: (table_name, load_id, path, ignored), by table and load
-- Index: task_load, attempt_pkey; reads the counts of these tables.
SELECT counted.table_name, load.id AS load_id, load.path, sum(counted.ignored)::bigint AS ignored
  FROM protheon.table_count AS counted
  JOIN protheon.task ON task.id = counted.task_id AND task.attempt_no = counted.attempt_no AND task.state = 'succeeded'
  JOIN protheon.attempt ON attempt.task_id = counted.task_id AND attempt.attempt_no = counted.attempt_no
  JOIN protheon.load ON load.id = task.load_id
 WHERE counted.table_name = ANY(%(table_names)s::text[]) AND counted.ignored > 0
   AND load.id <> ALL(%(load_ids)s::bigint[]) AND load.undone_at IS NULL
   AND attempt.ended_at >= (SELECT min(first.started_at) FROM protheon.task AS own JOIN protheon.attempt AS first ON first.task_id = own.id
                             WHERE own.load_id = ANY(%(load_ids)s::bigint[]))
 GROUP BY counted.table_name, load.id, load.path
 ORDER BY counted.table_name, load.id;
