-- insert_pipeline: the code of a run, for its workers.
-- Params: the columns   Returns: nothing   Locks: the new row, run (key share).   Index: pipeline_pkey.
INSERT INTO protheon.pipeline (run_id, name, version, reference, object, signature, code_hash, tables, versions, options)
VALUES (%(run_id)s, %(name)s, %(version)s, %(reference)s, %(object)s, %(signature)s, %(code_hash)s, %(tables)s, %(versions)s, %(options)s);
