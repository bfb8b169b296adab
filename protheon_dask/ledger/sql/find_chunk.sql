-- find_chunk: a chunk and its source, for running its pipeline on its bytes elsewhere: the chunk of a task, or that in which a line of a load is.
-- Params: task_id bigint?, load_id bigint?, line bigint?: the first, or the other two
-- Returns: the chunk's row with run_id (of the task's last attempt; else the load's owner), replay_of, load_path (of the file that was cut),
--          size_bytes and digest (of that file), or no row
-- Index: chunk_pkey, chunk_load_id_first_line_key, load_pkey, source_pkey, attempt_pkey.
SELECT chunk.*, load.replay_of, load.path AS load_path, source.size_bytes, source.digest,
       coalesce((SELECT attempt.run_id FROM protheon.attempt WHERE attempt.task_id = chunk.task_id ORDER BY attempt.attempt_no DESC LIMIT 1),
                load.owner_run_id) AS run_id
  FROM protheon.chunk
  JOIN protheon.load ON load.id = chunk.load_id
  JOIN protheon.source ON source.id = load.source_id
 WHERE chunk.task_id = coalesce(%(task_id)s::bigint,
       (SELECT inner_chunk.task_id FROM protheon.chunk AS inner_chunk
         WHERE inner_chunk.load_id = %(load_id)s::bigint AND inner_chunk.first_line <= %(line)s::bigint
           AND inner_chunk.first_line + inner_chunk.n_lines > %(line)s::bigint
         ORDER BY inner_chunk.first_line DESC LIMIT 1));
