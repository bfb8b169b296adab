-- end_undo: all rows of the loads are gone; runs that have them are told.
-- Params: load_ids bigint[], now timestamptz?   Returns: load_id of each that was not undone before   Locks: load, run.   Index: load_pkey, run_load_load.
WITH undone AS (
    UPDATE protheon.load SET undone_at = coalesce(%(now)s, now())
     WHERE id = ANY(%(load_ids)s::bigint[]) AND undo_started_at IS NOT NULL AND undone_at IS NULL
 RETURNING id, undone_at
), told AS (
    UPDATE protheon.run SET notices = run.notices || news.notices
      FROM (SELECT run_load.run_id,
                   array_agg(format('%%s: undone at %%s UTC (load %%s): its rows are deleted', run_load.path,
                                    to_char(undone.undone_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), undone.id) ORDER BY undone.id) AS notices
              FROM undone JOIN protheon.run_load ON run_load.load_id = undone.id
             GROUP BY run_load.run_id) AS news
     WHERE run.id = news.run_id
)
SELECT id AS load_id FROM undone ORDER BY id;
