-- is_led: does a broker lead this ledger now?
-- Params: lock_class integer, lock integer   Returns: is_led boolean   Locks: none.   Index: none (pg_locks is a view of the server's memory).
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks AS held
     WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
       AND held.classid::bigint = %(lock_class)s AND held.objid::bigint = %(lock)s
       AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) AS is_led;
