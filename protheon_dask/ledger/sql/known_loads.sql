-- known_loads: which of these sources this pipeline has loaded, wholly or in part, or is loading.
-- Params: sizes bigint[], digests bytea[], pipeline_name, pipeline_version, options text
-- Returns: (size_bytes, digest, load_id, run_id: the owner's, run_state, is_finished, n_chunks, chunk_lines, n_succeeded,
--          lines, raw_bytes: of its chunks that are loaded)
-- Locks: none.   Index: source_size_bytes_digest_key, load_identity, task_load, chunk_pkey.
SELECT source.size_bytes, source.digest, load.id AS load_id, load.owner_run_id AS run_id, run.state AS run_state,
       load.finished_at IS NOT NULL AS is_finished, load.n_chunks, load.chunk_lines, done.n_succeeded, done.lines, done.raw_bytes
  FROM unnest(%(sizes)s::bigint[], %(digests)s::bytea[]) AS wanted (size_bytes, digest)
  JOIN protheon.source ON source.size_bytes = wanted.size_bytes AND source.digest = wanted.digest
  JOIN protheon.load ON load.source_id = source.id AND load.retired_at IS NULL AND load.replay_of IS NULL
   AND load.pipeline_name = %(pipeline_name)s AND load.pipeline_version = %(pipeline_version)s AND load.options = %(options)s
  JOIN protheon.run ON run.id = load.owner_run_id
 CROSS JOIN LATERAL (SELECT count(*)::integer AS n_succeeded, coalesce(sum(chunk.n_lines), 0)::bigint AS lines,
                            coalesce(sum(chunk.raw_bytes), 0)::bigint AS raw_bytes
                       FROM protheon.task JOIN protheon.chunk ON chunk.task_id = task.id
                      WHERE task.load_id = load.id AND task.state = 'succeeded') AS done;
