-- known_chunks: which of these are chunks of the ledger.
-- Params: task_ids bigint[]   Returns: task_id   Index: chunk_pkey.
SELECT task_id FROM protheon.chunk WHERE task_id = ANY(%(task_ids)s::bigint[]);
