-- built_upon: rows of other loads that may stand on rows of these: since these began, a table's rule passed them over, or put them into
-- stored rows that do not say so. The rule is that of the other load: pipelines with other rules may share a table.
-- Params: load_ids bigint[], table_names text[]
-- Returns: (table_name, load_id, path: of a replay a name for people, passed_over, put_into bigint), by table and load; one of the two counts is not 0
-- Index: task_load, attempt_pkey, pipeline_pkey; reads the counts of these tables.
SELECT beside.table_name, beside.load_id, beside.path, passed.n AS passed_over, put.n AS put_into
  FROM (SELECT counted.table_name, load.id AS load_id, coalesce('rejects of run ' || original.owner_run_id, load.path) AS path, load.owner_run_id,
               sum(counted.ignored)::bigint AS ignored, sum(counted.updated)::bigint AS updated
          FROM protheon.table_count AS counted
          JOIN protheon.task ON task.id = counted.task_id AND task.attempt_no = counted.attempt_no AND task.state = 'succeeded'
          JOIN protheon.attempt ON attempt.task_id = counted.task_id AND attempt.attempt_no = counted.attempt_no
          JOIN protheon.load ON load.id = task.load_id
          LEFT JOIN protheon.load AS original ON original.id = load.replay_of
         WHERE counted.table_name = ANY(%(table_names)s::text[]) AND (counted.ignored > 0 OR counted.updated > 0)
           AND load.id <> ALL(%(load_ids)s::bigint[]) AND load.undone_at IS NULL
           AND attempt.ended_at >= (SELECT min(first.started_at) FROM protheon.task AS own JOIN protheon.attempt AS first ON first.task_id = own.id
                                     WHERE own.load_id = ANY(%(load_ids)s::bigint[]))
         GROUP BY counted.table_name, load.id, original.id) AS beside
  JOIN protheon.pipeline ON pipeline.run_id = beside.owner_run_id
  LEFT JOIN LATERAL (SELECT declared ->> 'on_conflict' AS on_conflict, declared ->> 'newer_by' AS newer_by,
                            (declared ->> 'provenance')::boolean AS provenance
                       FROM json_array_elements(pipeline.tables::json) AS declared
                      WHERE declared ->> 'name' = beside.table_name) AS rule ON true
  CROSS JOIN LATERAL (SELECT CASE WHEN coalesce(rule.on_conflict = 'ignore' OR rule.newer_by IS NOT NULL, true)
                                  THEN beside.ignored ELSE 0 END AS n) AS passed
  CROSS JOIN LATERAL (SELECT CASE WHEN coalesce(rule.on_conflict = 'add' OR NOT rule.provenance, true)
                                  THEN beside.updated ELSE 0 END AS n) AS put
 WHERE passed.n > 0 OR put.n > 0
 ORDER BY beside.table_name, beside.load_id;
