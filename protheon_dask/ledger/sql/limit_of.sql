-- limit_of: the reject limit of a run.
-- Params: run_id bigint   Returns: (reject_limit_lines, reject_limit_fraction)   Index: run_pkey.
SELECT reject_limit_lines, reject_limit_fraction FROM protheon.run WHERE id = %(run_id)s;
