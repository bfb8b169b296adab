-- report_status: the ledger itself.
-- Params: none   Returns: one row   Index: run_open, task_ready, task_running.
SELECT leadership.ledger_id, leadership.epoch, leadership.taken_at,
       (SELECT max(version) FROM protheon.migration) AS migration,
       current_setting('server_version') AS server_version, current_database() AS database,
       (SELECT count(*) FROM protheon.run WHERE ended_at IS NULL) AS open_runs,
       (SELECT count(*) FROM protheon.task WHERE state = 'ready') AS ready_tasks,
       (SELECT count(*) FROM protheon.task WHERE state = 'running') AS running_tasks,
       (SELECT sum(pg_catalog.pg_total_relation_size(c.oid))::bigint FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'protheon' AND c.relkind = 'r') AS ledger_bytes
  FROM protheon.leadership;
