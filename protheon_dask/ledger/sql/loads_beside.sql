-- loads_beside: loads that a person who replaces loads may take for replaced too, and that stay: of the same sources by another version of
-- the pipeline, or of the same paths when they held something else.
-- Params: paths text[], sizes bigint[], digests bytea[] (side by side), pipeline_name, pipeline_version, options text
-- Returns: (id, path, pipeline_version, is_same_content boolean), in order; only loads whose rows stand   Index: none; read once a replacement.
SELECT load.id, load.path, load.pipeline_version, same.is_there AS is_same_content
  FROM protheon.load
  JOIN protheon.source ON source.id = load.source_id
  CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM unnest(%(sizes)s::bigint[], %(digests)s::bytea[]) AS wanted (size_bytes, digest)
                                      WHERE wanted.size_bytes = source.size_bytes AND wanted.digest = source.digest) AS is_there) AS same
 WHERE load.pipeline_name = %(pipeline_name)s AND load.options = %(options)s AND load.replay_of IS NULL AND load.undone_at IS NULL
   AND (same.is_there AND load.pipeline_version <> %(pipeline_version)s OR NOT same.is_there AND load.path = ANY(%(paths)s::text[]))
   AND EXISTS (SELECT FROM protheon.task WHERE task.load_id = load.id AND task.state = 'succeeded')
 ORDER BY load.id;
