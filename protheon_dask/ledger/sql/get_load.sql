-- get_load: what a splitter needs to know of a load.
-- Params: load_id bigint   Returns: (load_id, path, owner_run_id, replay_of, load_chunk_lines, max_chunk_bytes, max_line_bytes, size_bytes, digest, run_state)   Index: load_pkey.
SELECT load.id AS load_id, load.path, load.owner_run_id, load.replay_of, load.chunk_lines AS load_chunk_lines, load.max_chunk_bytes, load.max_line_bytes,
       source.size_bytes, source.digest, run.state AS run_state
  FROM protheon.load JOIN protheon.source ON source.id = load.source_id JOIN protheon.run ON run.id = load.owner_run_id
 WHERE load.id = %(load_id)s;
