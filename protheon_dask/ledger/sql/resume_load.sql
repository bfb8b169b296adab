-- resume_load: an unfinished load gets a new owner; a split that had stopped goes on.
-- Params: load_id bigint, run_id bigint, path text, code_hash bytea   Returns: nothing   Locks: load.   Index: load_pkey.
UPDATE protheon.load
   SET owner_run_id = %(run_id)s, path = %(path)s, code_hash = %(code_hash)s,
       split_state = CASE WHEN split_state IN ('complete', 'damaged') THEN split_state ELSE 'pending' END,
       split_message = CASE WHEN split_state = 'damaged' THEN split_message END
 WHERE id = %(load_id)s;
