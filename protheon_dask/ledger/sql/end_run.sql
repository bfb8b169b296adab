-- end_run: a run reaches a final state.
-- Params: run_id bigint, state text, reason text, now timestamptz?   Returns: id, or no row: it had ended already
-- Locks: run.   Index: run_pkey.
UPDATE protheon.run SET state = %(state)s, state_reason = %(reason)s, ended_at = coalesce(%(now)s, now())
 WHERE id = %(run_id)s AND ended_at IS NULL
RETURNING id;
