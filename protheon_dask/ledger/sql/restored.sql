-- restored: a chunk was cut again; its stored form has a new generation.
-- Params: epoch bigint, load_id bigint, first_line bigint, generation integer, stored_bytes bigint, stored_xxh3 bytea
-- The same generation again changes nothing: the caller's last COMMIT was not answered.
-- Returns: task_id, or no row: another broker leads   Locks: leadership (share), chunk.   Index: chunk_load_id_first_line_key.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
)
UPDATE protheon.chunk SET generation = %(generation)s, stored_bytes = %(stored_bytes)s, stored_xxh3 = %(stored_xxh3)s
  FROM leader
 WHERE load_id = %(load_id)s AND first_line = %(first_line)s AND generation <= %(generation)s
RETURNING task_id;
