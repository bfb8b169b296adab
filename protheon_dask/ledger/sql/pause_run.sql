-- pause_run: a running run stops being dispatched until it is resumed.
-- Params: run_id bigint, reason text   Returns: id, or no row: it was not running   Locks: run.   Index: run_pkey.
UPDATE protheon.run SET state = 'paused', state_reason = %(reason)s WHERE id = %(run_id)s AND state = 'running' RETURNING id;
