-- run_exists: is there such a run?
-- Params: run_id bigint   Returns: id, or no row   Index: run_pkey.
SELECT id FROM protheon.run WHERE id = %(run_id)s;
