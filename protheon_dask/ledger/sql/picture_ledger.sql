-- picture_ledger: what the ledger knows of all runs together and can tell cheaply.
-- Params: none   Returns: one row: (at: the database's clock, files, files_completed, wire_bytes, dead_letters: ever, general_ready and
--         general_running: tasks of no run, oldest_ready_s: how long the oldest of these waits that may be taken, NULL: none may)
-- Asked every second. Runs, loads and dead letters are looked through; of tasks only those of no run that are not done.
-- Index: task_load.
SELECT now() AS at,
       (SELECT count(*) FROM protheon.load WHERE replay_of IS NULL) AS files,
       (SELECT count(*) FROM protheon.load WHERE replay_of IS NULL AND finished_at IS NOT NULL) AS files_completed,
       (SELECT coalesce(sum(wire_bytes), 0)::bigint FROM protheon.run) AS wire_bytes,
       (SELECT count(*) FROM protheon.dead_letter) AS dead_letters,
       (SELECT count(*) FROM protheon.task WHERE load_id IS NULL AND state = 'ready') AS general_ready,
       (SELECT count(*) FROM protheon.task WHERE load_id IS NULL AND state = 'running') AS general_running,
       (SELECT extract(epoch FROM now() - min(ready_at))::double precision
          FROM protheon.task WHERE load_id IS NULL AND state = 'ready' AND ready_at <= now()) AS oldest_ready_s;
