-- purge: give dead tasks up: they stay dead, their letters stay as history, and nobody keeps their bytes.
-- Params: task_ids bigint[], now timestamptz?
-- Returns: (task_id, and where its file is: load_id, first_line, generation: NULLs for other handlers) of each letter that was open, in order
-- Locks: task in order of id, then dead_letter, as replay: of the two the first one wins.   Index: task_pkey, dead_letter_open, chunk_pkey.
WITH picked AS (
    SELECT task.id FROM protheon.task
     WHERE task.id = ANY(%(task_ids)s::bigint[]) AND task.state = 'dead'
     ORDER BY task.id
       FOR NO KEY UPDATE
), closed AS (
    UPDATE protheon.dead_letter SET purged_at = coalesce(%(now)s, now())
      FROM picked
     WHERE dead_letter.task_id = picked.id AND dead_letter.replayed_at IS NULL AND dead_letter.purged_at IS NULL
 RETURNING dead_letter.task_id
)
SELECT closed.task_id, chunk.load_id, chunk.first_line, chunk.generation
  FROM closed LEFT JOIN protheon.chunk ON chunk.task_id = closed.task_id
 ORDER BY closed.task_id;
