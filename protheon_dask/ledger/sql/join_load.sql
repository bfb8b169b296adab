-- join_load: note how a run came to a load.
-- Params: run_id, load_id bigint, path, joined text   Returns: nothing   Locks: the new row, run and load (key share).   Index: run_load_pkey.
INSERT INTO protheon.run_load (run_id, load_id, path, joined) VALUES (%(run_id)s, %(load_id)s, %(path)s, %(joined)s)
ON CONFLICT DO NOTHING;
