-- resume_run: a paused run is dispatched again, with another reject limit where one is given, by the cluster of the broker that asks.
-- Params: run_id bigint, reject_limit_lines bigint?, reject_limit_fraction double precision?, ephemeral boolean
-- Returns: id, or no row: it was not paused   Locks: run.   Index: run_pkey.
UPDATE protheon.run
   SET state = 'running', state_reason = NULL, resumed_at = now(), ephemeral = %(ephemeral)s,
       reject_limit_lines = CASE WHEN %(reject_limit_fraction)s::double precision IS NULL
                                 THEN coalesce(%(reject_limit_lines)s, reject_limit_lines) END,
       reject_limit_fraction = CASE WHEN %(reject_limit_lines)s::bigint IS NULL
                                    THEN coalesce(%(reject_limit_fraction)s, reject_limit_fraction) END
 WHERE id = %(run_id)s AND state = 'paused'
RETURNING id;
