-- closed_tables: tables that runs have loaded into, and that the current role may not read and fill; a row or more means that it needs GRANTs.
-- Params: none   Returns: name text   Locks: none
-- Index: none: a row of pipeline is a run, and its tables are some five.
SELECT DISTINCT declared ->> 'name' AS name
  FROM protheon.pipeline
 CROSS JOIN LATERAL json_array_elements(pipeline.tables::json) AS declared
  JOIN pg_catalog.pg_namespace AS place ON place.nspname = split_part(declared ->> 'name', '.', 1)
  JOIN pg_catalog.pg_class AS c ON c.relnamespace = place.oid AND c.relname = substr(declared ->> 'name', strpos(declared ->> 'name', '.') + 1)
 WHERE NOT (has_schema_privilege(place.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT'))
 ORDER BY name;
