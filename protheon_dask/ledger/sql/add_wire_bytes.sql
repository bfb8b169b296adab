-- add_wire_bytes: chunk bytes that the broker sent, added to the run that owns the chunk's load.
-- Params: task_id, n_bytes bigint   Returns: nothing   Locks: run.   Index: chunk_pkey, load_pkey.
UPDATE protheon.run SET wire_bytes = wire_bytes + %(n_bytes)s
  FROM protheon.chunk JOIN protheon.load ON load.id = chunk.load_id
 WHERE chunk.task_id = %(task_id)s AND run.id = load.owner_run_id;
