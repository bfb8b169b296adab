-- loads_to_replace: loads of this identity whose rows stand, wholly or partly, in order.
-- Params: size_bytes bigint, digest bytea, pipeline_name, pipeline_version, options text
-- Returns: (id, code_hash, finished boolean, after_undo boolean: an older load of this identity was undone, so that it may be what replaces that one)
-- Index: source_size_bytes_digest_key.
SELECT load.id, load.code_hash, load.finished_at IS NOT NULL AS finished,
       load.retired_at IS NULL AND EXISTS (
           SELECT FROM protheon.load AS old
            WHERE old.source_id = load.source_id AND old.pipeline_name = load.pipeline_name AND old.pipeline_version = load.pipeline_version
              AND old.options = load.options AND old.id < load.id AND old.replay_of IS NULL AND old.undone_at IS NOT NULL) AS after_undo
  FROM protheon.load JOIN protheon.source ON source.id = load.source_id
 WHERE source.size_bytes = %(size_bytes)s AND source.digest = %(digest)s AND load.pipeline_name = %(pipeline_name)s
   AND load.pipeline_version = %(pipeline_version)s AND load.options = %(options)s AND load.replay_of IS NULL AND load.undone_at IS NULL
 ORDER BY load.id;
