-- insert_load: a source that this pipeline has not loaded, or the file of a replay (replay_of: the load whose rejects are in it).
-- Params: the columns   Returns: id   Locks: the new row, run and source (key share).   Index: load_identity.
INSERT INTO protheon.load (pipeline_name, pipeline_version, options, source_id, owner_run_id, path, code_hash, chunk_lines, max_chunk_bytes,
                           max_line_bytes, estimated_lines, replay_of)
VALUES (%(pipeline_name)s, %(pipeline_version)s, %(options)s, %(source_id)s, %(run_id)s, %(path)s, %(code_hash)s, %(chunk_lines)s,
        %(max_chunk_bytes)s, %(max_line_bytes)s, %(estimated_lines)s, %(replay_of)s)
RETURNING id;
