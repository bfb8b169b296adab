-- get_pipeline: the code of a run.
-- Params: run_id bigint   Returns: its columns   Index: pipeline_pkey.
SELECT name, version, reference, object, signature, code_hash, tables AS tables_json, versions AS versions_json, options AS options_json
  FROM protheon.pipeline WHERE run_id = %(run_id)s;
