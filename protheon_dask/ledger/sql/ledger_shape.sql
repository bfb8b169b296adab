-- ledger_shape: the columns of the ledger's tables, by which a ledger is judged that was made before migrations had digests.
-- Params: none   Returns: one row a column (told: table, column, type, whether it may be null), in a fixed order   Index: pg_catalog's
SELECT relation.relname || '.' || attribute.attname || ' ' || format_type(attribute.atttypid, attribute.atttypmod)
       || CASE WHEN attribute.attnotnull THEN ' not null' ELSE '' END AS told
  FROM pg_catalog.pg_class AS relation
  JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
 WHERE relation.relnamespace = 'protheon'::regnamespace AND relation.relkind IN ('r', 'p')
 ORDER BY relation.relname COLLATE "C", attribute.attname COLLATE "C";
