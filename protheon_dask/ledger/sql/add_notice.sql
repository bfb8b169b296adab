-- add_notice: tell every open run that waits for a load what was found in its source; once, however often it is told.
-- Params: load_id bigint, notice text   Returns: nothing   Locks: run.   Index: run_load_load, run_pkey.
UPDATE protheon.run
   SET notices = notices || %(notice)s::text
  FROM protheon.run_load
 WHERE run_load.load_id = %(load_id)s AND run.id = run_load.run_id AND run.ended_at IS NULL AND NOT notices @> ARRAY[%(notice)s::text];
