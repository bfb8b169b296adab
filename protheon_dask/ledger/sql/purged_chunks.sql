-- purged_chunks: dead chunks of these loads that were given up: their files are of no use.
-- Params: load_ids bigint[]   Returns: (load_id, first_line)   Index: task_load, dead_letter_open, chunk_pkey.
SELECT chunk.load_id, chunk.first_line
  FROM protheon.task
  JOIN protheon.dead_letter ON dead_letter.task_id = task.id AND dead_letter.replayed_at IS NULL AND dead_letter.purged_at IS NOT NULL
  JOIN protheon.chunk ON chunk.task_id = task.id
 WHERE task.load_id = ANY(%(load_ids)s::bigint[]) AND task.state = 'dead';
