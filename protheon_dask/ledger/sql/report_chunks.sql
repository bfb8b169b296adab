-- report_chunks: a run's chunks and the state of their tasks.
-- Params: run_id bigint, limit integer   Returns: one row a chunk, by load and line   Index: run_load_pkey, chunk_load_id_chunk_no_key.
SELECT chunk.task_id, chunk.load_id, chunk.chunk_no, chunk.first_line, chunk.n_lines, chunk.byte_offset, chunk.raw_bytes, chunk.stored_bytes,
       chunk.generation, chunk.oversized, task.state, task.attempt_no, task.failures, task.crashes, task.losses, task.ready_at, task.lease_until_at
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.chunk ON chunk.load_id = joined.load_id
  JOIN protheon.task ON task.id = chunk.task_id
 ORDER BY chunk.load_id, chunk.chunk_no
 LIMIT %(limit)s;
