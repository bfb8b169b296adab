-- finish_loads: loads of which every chunk has succeeded, without a gap, are finished: later runs skip them.
-- Params: now timestamptz?   Returns: id   Locks: load.   Index: run_open, load_owner, task_load, chunk_load_id_chunk_no_key.
-- Asked every second. The states are named, so that a load's first task that is not done is found in the index; and this comes first, in
-- a step of its own: else the planner counts and adds up all chunks of each load that is still at work.
WITH ended AS MATERIALIZED (
    SELECT load.id, load.n_chunks
      FROM protheon.run
      JOIN protheon.load ON load.owner_run_id = run.id
     WHERE run.ended_at IS NULL AND load.split_state = 'complete' AND load.finished_at IS NULL
       AND NOT EXISTS (SELECT FROM protheon.task WHERE task.load_id = load.id AND task.state IN ('ready', 'running', 'dead', 'cancelled'))
), done AS (
    SELECT ended.id
      FROM ended
     WHERE ended.n_chunks = (SELECT count(*) FROM protheon.chunk WHERE chunk.load_id = ended.id)
       AND NOT EXISTS (
           SELECT FROM (SELECT chunk.first_line, chunk.byte_offset,
                               1 + coalesce(sum(n_lines) OVER before, 0) AS next_line, coalesce(sum(raw_bytes) OVER before, 0) AS next_byte
                          FROM protheon.chunk WHERE chunk.load_id = ended.id
                        WINDOW before AS (ORDER BY chunk_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS manifest
            WHERE manifest.first_line <> manifest.next_line OR manifest.byte_offset <> manifest.next_byte)
)
UPDATE protheon.load SET finished_at = coalesce(%(now)s, now()) FROM done WHERE load.id = done.id
RETURNING load.id;
