-- lost_rows: loads of these sources that have rows in tables that are gone or empty, the ones that would be skipped or gone on with.
-- Params: sizes bigint[], digests bytea[] (side by side), pipeline_name, pipeline_version, options text, tables text[]
-- Returns: (size_bytes, digest, finished boolean, owner_run_id, table_name, n_rows), by load and table; not of loads that a run works on
-- Index: source_size_bytes_digest_key, load_identity, task_load, table_count_pkey.
SELECT source.size_bytes, source.digest, load.finished_at IS NOT NULL AS finished, load.owner_run_id, counted.table_name,
       sum(counted.inserted + counted.updated)::bigint AS n_rows
  FROM unnest(%(sizes)s::bigint[], %(digests)s::bytea[]) AS wanted (size_bytes, digest)
  JOIN protheon.source ON source.size_bytes = wanted.size_bytes AND source.digest = wanted.digest
  JOIN protheon.load ON load.source_id = source.id AND load.pipeline_name = %(pipeline_name)s
   AND load.pipeline_version = %(pipeline_version)s AND load.options = %(options)s AND load.retired_at IS NULL AND load.replay_of IS NULL
  JOIN protheon.run ON run.id = load.owner_run_id
  JOIN protheon.task ON task.load_id = load.id AND task.state = 'succeeded'
  JOIN protheon.table_count AS counted ON counted.task_id = task.id AND counted.attempt_no = task.attempt_no
 WHERE counted.table_name = ANY(%(tables)s) AND (load.finished_at IS NOT NULL OR run.state NOT IN ('queued', 'running'))
 GROUP BY load.id, source.id, counted.table_name
HAVING sum(counted.inserted + counted.updated) > 0
 ORDER BY load.id, counted.table_name;
