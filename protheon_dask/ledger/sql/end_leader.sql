-- end_leader: end the backend that holds the advisory lock of leadership, while the broker that asks is the one that led last.
-- Params: broker_uuid uuid, lock_class integer, lock integer   Returns: terminated boolean (NULL: nobody holds it), or no row: another broker led
-- A connection that broke on our side only lives on in the server, with the lock, until its keep-alives fail.
-- A broker that was granted the lock this instant and has not raised the epoch yet would lose its connection, and say so.
-- Locks: none.   Index: leadership_pkey.
SELECT pg_terminate_backend(held.pid) AS terminated
  FROM protheon.leadership
  LEFT JOIN pg_catalog.pg_locks AS held
    ON held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
   AND held.classid::bigint = %(lock_class)s AND held.objid::bigint = %(lock)s
   AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND held.pid <> pg_backend_pid()
 WHERE leadership.broker_uuid = %(broker_uuid)s;
