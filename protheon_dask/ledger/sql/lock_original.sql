-- lock_original: keep a load from being retired until the transaction ends, and tell whether it is already.
-- Params: load_id bigint   Returns: is_retired boolean   Locks: load (share).   Index: load_pkey.
SELECT retired_at IS NOT NULL AS is_retired FROM protheon.load WHERE id = %(load_id)s FOR SHARE;
