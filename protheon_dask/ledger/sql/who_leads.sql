-- who_leads: the session that leads this ledger now.
-- Params: lock_class integer, lock integer   Returns: client_address text (NULL: over a socket, or not for this role to see), since_at timestamptz
-- (NULL: not for this role to see), or no row: nobody leads
-- Locks: none.   Index: none (views of the server's memory).
SELECT host(activity.client_addr) AS client_address, activity.backend_start AS since_at
  FROM pg_catalog.pg_locks AS held
  JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
 WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
   AND held.classid::bigint = %(lock_class)s AND held.objid::bigint = %(lock)s
   AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database());
