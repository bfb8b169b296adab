-- lock_sources: submissions of the sources of these loads and their replays, and what else undoes them, take turns from here on
-- until the transaction ends.
-- Params: load_ids bigint[]   Returns: id, in order   Locks: source, in order of id; before load, as join_load does.   Index: load_pkey, load_replay_of, source_pkey.
SELECT source.id FROM protheon.source
 WHERE source.id IN (SELECT load.source_id FROM protheon.load
                      WHERE load.id = ANY(%(load_ids)s::bigint[]) OR load.replay_of = ANY(%(load_ids)s::bigint[]))
 ORDER BY source.id
   FOR NO KEY UPDATE;
