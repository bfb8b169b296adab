-- pending_loads: loads of running runs whose source is still to be cut, oldest first, with the last chunk that is known.
-- Params: none   Returns: load's columns for a split, size_bytes and digest, and the last chunk's manifest (NULLs: none yet)
-- Index: run_open, load_owner, chunk_load_id_chunk_no_key.
SELECT load.id AS load_id, load.path, load.chunk_lines AS load_chunk_lines, load.max_chunk_bytes, load.max_line_bytes, load.split_state,
       load.owner_run_id, load.replay_of, source.size_bytes, source.digest, last.*
  FROM protheon.run
  JOIN protheon.load ON load.owner_run_id = run.id AND load.split_state IN ('pending', 'splitting') AND load.retired_at IS NULL
  JOIN protheon.source ON source.id = load.source_id
  LEFT JOIN LATERAL (
       SELECT chunk_no, first_line, n_lines, byte_offset, raw_bytes, raw_xxh3, stored_bytes, stored_xxh3, generation,
              restart_stored_offset, restart_raw_offset, restart_line, oversized
         FROM protheon.chunk WHERE chunk.load_id = load.id ORDER BY chunk_no DESC LIMIT 1) AS last ON true
 WHERE run.state = 'running'
 ORDER BY load.id;
