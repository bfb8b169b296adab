-- start_run: a queued run whose loads are joined starts.
-- Params: run_id bigint, notices text[]   Returns: nothing   Locks: run.   Index: run_pkey.
UPDATE protheon.run SET state = 'running', notices = %(notices)s WHERE id = %(run_id)s AND state = 'queued';
