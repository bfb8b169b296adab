-- free_rejects: whole lines of a load that are still refused, by the load itself or by a replay of it, and wait in no replay.
-- Params: load_id bigint (never a replay)
-- Returns: (id, line, byte_offset, raw, raw_bytes; restart_stored_offset, restart_raw_offset: where decompression of the source can
--          start for the rest of a line of which raw is not all; NULLs for the others), in the order of lines
-- A line that was refused again by a replay is in the source where its first reject is, so its place is found by its number.
-- Index: load_replay_of, reject_load, load_pkey, chunk_load_id_first_line_key.
SELECT reject.id, reject.line, reject.byte_offset, reject.raw, reject.raw_bytes, start.restart_stored_offset, start.restart_raw_offset
  FROM protheon.load
  JOIN protheon.reject ON reject.load_id = load.id AND reject.part IS NULL AND reject.replayed_by IS NULL
  LEFT JOIN protheon.load AS holder ON holder.id = reject.replay_load_id
  LEFT JOIN LATERAL (
       SELECT chunk.restart_stored_offset, chunk.restart_raw_offset
         FROM protheon.chunk
        WHERE reject.raw_bytes > octet_length(reject.raw) AND chunk.load_id = %(load_id)s AND chunk.first_line <= reject.line
        ORDER BY chunk.first_line DESC LIMIT 1) AS start ON true
 WHERE (load.id = %(load_id)s OR load.replay_of = %(load_id)s) AND (holder.id IS NULL OR holder.retired_at IS NOT NULL)
 ORDER BY reject.line, reject.id;
