-- rows_of_table: what all loads together, but those that are undone or being undone, brought into one table, by whatever pipeline.
-- Params: table_name text
-- Returns: (inserted: with provenance, updated, unmarked: updated without provenance, so that these rows still name another chunk)
-- Index: pipeline_pkey; read once a table.
SELECT coalesce(sum(brought.inserted) FILTER (WHERE rule.provenance), 0)::bigint AS inserted,
       coalesce(sum(brought.updated), 0)::bigint AS updated,
       coalesce(sum(brought.updated) FILTER (WHERE NOT rule.provenance), 0)::bigint AS unmarked
  FROM (SELECT load.owner_run_id, sum(counted.inserted) AS inserted, sum(counted.updated) AS updated
          FROM protheon.table_count AS counted
          JOIN protheon.task ON task.id = counted.task_id AND task.attempt_no = counted.attempt_no AND task.state = 'succeeded'
          JOIN protheon.load ON load.id = task.load_id AND load.undo_started_at IS NULL
         WHERE counted.table_name = %(table_name)s
         GROUP BY load.owner_run_id) AS brought
  JOIN protheon.pipeline ON pipeline.run_id = brought.owner_run_id
  CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM json_array_elements(pipeline.tables::json) AS declared
                                      WHERE declared ->> 'name' = %(table_name)s AND (declared ->> 'provenance')::boolean) AS provenance) AS rule;
