-- end_run: a run reaches a final state.
-- Params: run_id bigint, state text, reason text, now timestamptz?, is_seen boolean and resumed_at timestamptz?: as it was when nothing was
-- left to do in it   Returns: id, or no row: it had ended already, or tasks of it were made ready since
-- Locks: run.   Index: run_pkey.
UPDATE protheon.run SET state = %(state)s, state_reason = %(reason)s, ended_at = coalesce(%(now)s, now())
 WHERE id = %(run_id)s AND ended_at IS NULL
   AND (NOT %(is_seen)s::boolean OR resumed_at IS NOT DISTINCT FROM %(resumed_at)s::timestamptz)
RETURNING id;
