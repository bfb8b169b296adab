-- get_manifest: one chunk of a load.
-- Params: load_id, first_line bigint   Returns: its columns   Index: chunk_load_id_first_line_key.
SELECT * FROM protheon.chunk WHERE load_id = %(load_id)s AND first_line = %(first_line)s;
