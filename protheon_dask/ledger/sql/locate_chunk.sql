-- locate_chunk: where a chunk's bytes are to be found.
-- Params: task_id bigint   Returns: (load_id, path, first_line, generation, stored_bytes, state), or no row   Index: chunk_pkey.
SELECT chunk.load_id, chunk.first_line, chunk.generation, chunk.stored_bytes, task.state
  FROM protheon.chunk JOIN protheon.task ON task.id = chunk.task_id
 WHERE chunk.task_id = %(task_id)s;
