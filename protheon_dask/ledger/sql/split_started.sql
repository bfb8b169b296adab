-- split_started: a splitter is at work on the load.
-- Params: load_id bigint   Returns: nothing   Locks: load.   Index: load_pkey.
UPDATE protheon.load SET split_state = 'splitting' WHERE id = %(load_id)s AND split_state = 'pending';
