-- retire_load: take a load out of the identity, so that the source can be loaded once more.
-- Params: load_id bigint, now timestamptz?   Returns: nothing   Locks: load.   Index: load_pkey.
UPDATE protheon.load SET retired_at = coalesce(%(now)s, now()) WHERE id = %(load_id)s AND retired_at IS NULL;
