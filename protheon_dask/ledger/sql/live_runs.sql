-- live_runs: runs that have not ended, with the tables that they load into and those of these loads that they have.
-- Params: load_ids bigint[]   Returns: (run_id, state, load_ids bigint[], tables: JSON), oldest first   Index: run_open, run_load_pkey, pipeline_pkey.
SELECT run.id AS run_id, run.state, pipeline.tables,
       ARRAY(SELECT run_load.load_id FROM protheon.run_load
              WHERE run_load.run_id = run.id AND run_load.load_id = ANY(%(load_ids)s::bigint[]) ORDER BY 1) AS load_ids
  FROM protheon.run JOIN protheon.pipeline ON pipeline.run_id = run.id
 WHERE run.ended_at IS NULL
 ORDER BY run.id;
