-- rows_by_chunk: what each chunk of a run's loads brought into each table, for a look into the tables themselves.
-- Params: run_id bigint
-- Returns: one row a chunk and table (table_name NULL: the chunk brought nothing anywhere), by load and chunk:
--          (load_id, named_load_id: for a replay the load that it replays, path: of a replay a name for people, undone boolean, task_id, state, chunk_no, first_line, n_lines, table_name, expected: rows that it left there, updated,
--           ignored, checksum, compared). Of a load that is undone, or being undone, nothing is expected.
-- Index: run_load_pkey, task_load, chunk_pkey, table_count_pkey.
SELECT load.id AS load_id, coalesce(load.replay_of, load.id) AS named_load_id,
       coalesce('rejects of run ' || original.owner_run_id, load.path) AS path, load.undone_at IS NOT NULL AS undone, task.id AS task_id, task.state,
       chunk.chunk_no, chunk.first_line, chunk.n_lines, counted.table_name,
       CASE WHEN load.undone_at IS NULL THEN counted.inserted + counted.updated ELSE 0 END AS expected,
       counted.updated, counted.ignored, counted.checksum, counted.compared
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.load ON load.id = joined.load_id
  LEFT JOIN protheon.load AS original ON original.id = load.replay_of
  JOIN protheon.task ON task.load_id = load.id
  JOIN protheon.chunk ON chunk.task_id = task.id
  LEFT JOIN protheon.table_count AS counted
         ON task.state = 'succeeded' AND counted.task_id = task.id AND counted.attempt_no = task.attempt_no
 ORDER BY load.id, chunk.chunk_no, counted.table_name;
