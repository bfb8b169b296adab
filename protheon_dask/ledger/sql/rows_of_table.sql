-- rows_of_table: what all loads together, but those that are undone or being undone, brought into one table.
-- Params: table_name text   Returns: (inserted, updated)   Index: none; read once a table that replaces rows.
SELECT coalesce(sum(counted.inserted), 0)::bigint AS inserted, coalesce(sum(counted.updated), 0)::bigint AS updated
  FROM protheon.table_count AS counted
  JOIN protheon.task ON task.id = counted.task_id AND task.attempt_no = counted.attempt_no AND task.state = 'succeeded'
  JOIN protheon.load ON load.id = task.load_id AND load.undo_started_at IS NULL
 WHERE counted.table_name = %(table_name)s;
