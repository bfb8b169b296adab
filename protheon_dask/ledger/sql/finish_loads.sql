-- finish_loads: loads of which every chunk has succeeded, without a gap, are finished: later runs skip them.
-- Params: now timestamptz?   Returns: id   Locks: load.   Index: run_open, load_owner, task_load, chunk_load_id_chunk_no_key.
WITH done AS (
    SELECT load.id
      FROM protheon.run
      JOIN protheon.load ON load.owner_run_id = run.id
     WHERE run.ended_at IS NULL AND load.split_state = 'complete' AND load.finished_at IS NULL
       AND NOT EXISTS (SELECT FROM protheon.task WHERE task.load_id = load.id AND task.state <> 'succeeded')
       AND load.n_chunks = (SELECT count(*) FROM protheon.chunk WHERE chunk.load_id = load.id)
       AND NOT EXISTS (
           SELECT FROM (SELECT chunk.first_line, chunk.byte_offset,
                               1 + coalesce(sum(n_lines) OVER before, 0) AS next_line, coalesce(sum(raw_bytes) OVER before, 0) AS next_byte
                          FROM protheon.chunk WHERE chunk.load_id = load.id
                        WINDOW before AS (ORDER BY chunk_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS manifest
            WHERE manifest.first_line <> manifest.next_line OR manifest.byte_offset <> manifest.next_byte)
)
UPDATE protheon.load SET finished_at = coalesce(%(now)s, now()) FROM done WHERE load.id = done.id
RETURNING load.id;
