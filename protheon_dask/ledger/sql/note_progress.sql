-- note_progress: say what a running run is doing beside its chunks; the next reason, or none at its end, takes its place.
-- Params: run_id bigint, reason text   Returns: (state) of the run   Locks: run, where the words are new.   Index: run_pkey.
WITH noted AS (
    UPDATE protheon.run SET state_reason = %(reason)s
     WHERE id = %(run_id)s AND state = 'running' AND state_reason IS DISTINCT FROM %(reason)s
)
SELECT state FROM protheon.run WHERE id = %(run_id)s;
