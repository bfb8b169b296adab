-- lacks_rights: tables of the ledger that the current role may not read and write; a row or more means that it needs GRANTs.
-- Params: none   Returns: name text   Locks: none
-- Index: none is needed: the catalog has some ten of these.
SELECT c.relname::text AS name
  FROM pg_catalog.pg_class AS c
 WHERE c.relnamespace = 'protheon'::regnamespace AND c.relkind IN ('r', 'p')
   AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'));
