-- terminate: end the backends that are granted the advisory lock of these tasks (never one that waits for it).
-- Params: lock_keys bigint[] (verbs.advisory_key)   Returns: (lock_key, terminated boolean)
-- No time-out of PostgreSQL ends a COPY whose client is frozen; this does.   Locks: none.
SELECT wanted.lock_key, pg_terminate_backend(held.pid) AS terminated
  FROM unnest(%(lock_keys)s::bigint[]) AS wanted (lock_key)
  JOIN pg_catalog.pg_locks AS held
    ON held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
   AND held.classid::bigint = (wanted.lock_key >> 32) AND held.objid::bigint = (wanted.lock_key & 4294967295)
   AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
 WHERE held.pid <> pg_backend_pid();
