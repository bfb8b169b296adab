-- picture_ledger: what the ledger knows of all runs together and can tell cheaply.
-- Params: none   Returns: one row: (at: the database's clock, files, files_completed, wire_bytes, dead_letters: ever, general_ready and
--         general_running: tasks of no run, oldest_ready_s: how long the oldest chunk waits that may be taken, NULL: none is;
--         looked for among the thousand that are taken first)
-- Asked every second. Runs, loads and dead letters are looked through; of tasks only those that are not done.
-- Index: task_load, task_ready.
SELECT now() AS at,
       (SELECT count(*) FROM protheon.load WHERE replay_of IS NULL) AS files,
       (SELECT count(*) FROM protheon.load WHERE replay_of IS NULL AND finished_at IS NOT NULL) AS files_completed,
       (SELECT coalesce(sum(wire_bytes), 0)::bigint FROM protheon.run) AS wire_bytes,
       (SELECT count(*) FROM protheon.dead_letter) AS dead_letters,
       (SELECT count(*) FROM protheon.task WHERE load_id IS NULL AND state = 'ready') AS general_ready,
       (SELECT count(*) FROM protheon.task WHERE load_id IS NULL AND state = 'running') AS general_running,
       (SELECT extract(epoch FROM now() - min(first.ready_at))::double precision
          FROM (SELECT ready_at, load_id FROM protheon.task WHERE state = 'ready'
                 ORDER BY (attempt_no > 0) DESC, priority DESC, id LIMIT 1000) AS first
          JOIN protheon.load ON load.id = first.load_id
          JOIN protheon.run ON run.id = load.owner_run_id AND run.state = 'running'
         WHERE first.ready_at <= now()) AS oldest_ready_s;
