-- lock_loads: these loads and the replays of their rejects stay as they are until the transaction ends.
-- Params: load_ids bigint[]   Returns: id, in order   Locks: load, in order of id; after source.   Index: load_pkey, load_replay_of.
SELECT id FROM protheon.load
 WHERE id = ANY(%(load_ids)s::bigint[]) OR replay_of = ANY(%(load_ids)s::bigint[])
 ORDER BY id
   FOR NO KEY UPDATE;
