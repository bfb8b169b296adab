-- picture_loads: sums over the tasks of loads that may have changed since the last look, a row a load.
-- Params: known bigint[] (loads whose tasks were still to be done at the last look), since timestamptz? (look also at loads that were
--         finished after it; NULL: at every load of the ledger, once, when a broker begins)
-- Returns: (id, is_finished: nothing of it changes any more, is_open: its owner is live and it is not finished, ready, running, succeeded,
--          dead, cancelled, oldest_ready_s: how long its oldest chunk waits that may be taken, NULL: none may, lines, raw_bytes, rejects,
--          rows, and by how they ended the attempts after which a task was claimed again)
-- Asked every second. Loads are as many as files: they are looked through; those that are not cut yet have no tasks.
-- Those that are known are returned whenever they were finished: the transaction may have begun long before, or the clock be set back.
-- Index: run_open, load_owner, task_load, attempt_pkey, table_count_pkey.
WITH its AS MATERIALIZED (
    SELECT load.id, load.finished_at IS NOT NULL AS is_finished, load.finished_at IS NULL AND owner.ended_at IS NULL AS is_open,
           owner.state = 'running' AS is_given_out
      FROM protheon.load JOIN protheon.run AS owner ON owner.id = load.owner_run_id
     WHERE load.id = ANY (%(known)s::bigint[])
        OR (load.split_state <> 'pending'
            AND (%(since)s::timestamptz IS NULL OR load.finished_at > %(since)s::timestamptz
                 OR (load.finished_at IS NULL AND owner.ended_at IS NULL)))
)
SELECT its.id, its.is_finished, its.is_open, tasks.*
  FROM its
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE state = 'ready') AS ready, count(*) FILTER (WHERE state = 'running') AS running,
              count(*) FILTER (WHERE state = 'succeeded') AS succeeded, count(*) FILTER (WHERE state = 'dead') AS dead,
              count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
              extract(epoch FROM now() - min(ready_at) FILTER (WHERE state = 'ready' AND ready_at <= now() AND its.is_given_out)
                     )::double precision AS oldest_ready_s,
              coalesce(sum(tried.lines), 0)::bigint AS lines, coalesce(sum(tried.raw_bytes), 0)::bigint AS raw_bytes,
              coalesce(sum(tried.rejects), 0)::bigint AS rejects, coalesce(sum(stored.rows), 0)::bigint AS rows,
              coalesce(sum(tried.after_failed), 0)::bigint AS after_failed, coalesce(sum(tried.after_released), 0)::bigint AS after_released,
              coalesce(sum(tried.after_crashed), 0)::bigint AS after_crashed, coalesce(sum(tried.after_expired), 0)::bigint AS after_expired,
              coalesce(sum(tried.after_cancelled), 0)::bigint AS after_cancelled
         FROM protheon.task
        CROSS JOIN LATERAL (  -- summed task by task: joined, the planner reads all attempts there ever were
              SELECT sum(attempt.lines) FILTER (WHERE outcome = 'succeeded') AS lines,
                     sum(attempt.raw_bytes) FILTER (WHERE outcome = 'succeeded') AS raw_bytes, sum(attempt.rejected) AS rejects,
                     count(*) FILTER (WHERE outcome = 'failed' AND attempt.attempt_no < task.attempt_no) AS after_failed,
                     count(*) FILTER (WHERE outcome = 'released' AND attempt.attempt_no < task.attempt_no) AS after_released,
                     count(*) FILTER (WHERE outcome = 'crashed' AND attempt.attempt_no < task.attempt_no) AS after_crashed,
                     count(*) FILTER (WHERE outcome = 'expired' AND attempt.attempt_no < task.attempt_no) AS after_expired,
                     count(*) FILTER (WHERE outcome = 'cancelled' AND attempt.attempt_no < task.attempt_no) AS after_cancelled
                FROM protheon.attempt WHERE attempt.task_id = task.id AND task.attempt_no > 0) AS tried
        CROSS JOIN LATERAL (
              SELECT sum(table_count.offered) AS rows
                FROM protheon.table_count WHERE table_count.task_id = task.id AND task.state = 'succeeded') AS stored
        WHERE task.load_id = its.id) AS tasks;
