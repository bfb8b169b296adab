-- state_of_run: where a run stands.
-- Params: run_id bigint   Returns: (id, state), or no row   Index: run_pkey.
SELECT id, state FROM protheon.run WHERE id = %(run_id)s;
