-- reopen_runs: runs that gate tasks which are ready again, and those that waited for them, are running again if they had ended; one that
-- runs is touched, so that whoever is about to end it looks again. A paused run stays paused.
-- Params: run_ids bigint[] (the owners), load_ids bigint[] (of the tasks), ephemeral boolean (of the cluster that goes on with them)
-- Returns: (run_id, had_ended boolean), in order   Locks: run, in order of id; after load.   Index: run_pkey, run_load_load.
WITH picked AS (
    SELECT run.id, run.ended_at IS NOT NULL AS had_ended
      FROM protheon.run
     WHERE (run.id = ANY(%(run_ids)s::bigint[]) AND run.state IN ('running', 'incomplete', 'succeeded'))
        OR (run.state = 'incomplete'
            AND run.id IN (SELECT run_load.run_id FROM protheon.run_load
                            WHERE run_load.load_id = ANY(%(load_ids)s::bigint[]) AND run_load.joined = 'attached'))
     ORDER BY run.id
       FOR NO KEY UPDATE
), moved AS (
    UPDATE protheon.run
       SET state = 'running', ended_at = NULL, resumed_at = clock_timestamp(),
           state_reason = CASE WHEN picked.had_ended THEN NULL ELSE run.state_reason END,
           ephemeral = CASE WHEN picked.had_ended THEN %(ephemeral)s ELSE run.ephemeral END
      FROM picked
     WHERE run.id = picked.id
 RETURNING run.id, picked.had_ended
)
SELECT id AS run_id, had_ended FROM moved ORDER BY id;
