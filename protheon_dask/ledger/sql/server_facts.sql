-- server_facts: what the server, the database and the role allow, and how many connections are taken.
-- Params: none   Returns: one row (see ledger.fitness.ServerFacts)   Locks: none
-- Index: none; views of the server. Who may not see the activity of others sees their rows all the same, without backend_type.
-- Our own connection is in none of the counts. A worker's and a broker's say protheon-.. as their application, before a pooler too.
SELECT current_setting('server_version') AS version,
       pg_catalog.pg_is_in_recovery() AS is_standby,
       current_setting('default_transaction_read_only') = 'on' AS is_read_only,
       own.rolsuper AS is_superuser,
       current_setting('max_connections')::integer AS max_connections,
       current_setting('superuser_reserved_connections')::integer + coalesce(current_setting('reserved_connections', true)::integer, 0) AS reserved,
       own.rolconnlimit AS role_limit,
       here.datconnlimit AS database_limit,
       activity.in_use, activity.in_use_role, activity.in_use_database, activity.ours,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
       has_database_privilege(current_database(), 'TEMP') AS may_create_temporary,
       current_schema()::text AS schema_name,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create_table,
       EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS place ON place.oid = c.relnamespace  -- to_regclass() may refuse
                WHERE place.nspname = 'protheon' AND c.relname = 'migration') AS has_ledger
  FROM pg_catalog.pg_roles AS own
  JOIN pg_catalog.pg_database AS here ON here.datname = current_database()
 CROSS JOIN (SELECT count(*)::integer AS in_use,
                    (count(*) FILTER (WHERE usename = current_user))::integer AS in_use_role,
                    (count(*) FILTER (WHERE datname = current_database()))::integer AS in_use_database,
                    (count(*) FILTER (WHERE application_name LIKE 'protheon-%%' AND datname = current_database() AND usename = current_user))::integer AS ours
               FROM pg_catalog.pg_stat_activity
              WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
                AND pid <> pg_catalog.pg_backend_pid()) AS activity
 WHERE own.rolname = current_user;
