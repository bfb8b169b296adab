-- split_ended: the source was read to its end, or as far as it can be.
-- Params: epoch, load_id bigint, split_state, message text, damaged_at_bytes bigint, n_chunks integer   Returns: id, or no row: another broker leads
-- In the transaction of the last chunk, so n_chunks is known with it or not at all.   Locks: leadership (share), load.   Index: load_pkey.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
)
UPDATE protheon.load
   SET split_state = %(split_state)s, split_message = %(message)s, damaged_at_bytes = %(damaged_at_bytes)s, n_chunks = %(n_chunks)s
  FROM leader
 WHERE load.id = %(load_id)s
RETURNING load.id;
