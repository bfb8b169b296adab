-- look_owners: the runs that own these loads, as they are now: a look, before anything of theirs is locked.
-- Params: load_ids bigint[]   Returns: run_id, in order   Locks: none.   Index: load_pkey.
SELECT DISTINCT owner_run_id AS run_id FROM protheon.load
 WHERE id = ANY(%(load_ids)s::bigint[])
 ORDER BY run_id;
