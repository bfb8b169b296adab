-- abandon_queued: runs whose submission a broker that is gone did not finish; the same request again makes another run.
-- Params: now timestamptz?   Returns: id   Locks: run.   Index: run_open.
UPDATE protheon.run
   SET state = 'cancelled', ended_at = coalesce(%(now)s, now()), request_id = NULL,
       state_reason = 'the master ended while it was being submitted: type it again'
 WHERE state = 'queued' AND ended_at IS NULL
RETURNING id;
