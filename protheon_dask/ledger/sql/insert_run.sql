-- insert_run: a submission becomes a run in state queued.
-- Params: the columns   Returns: id, or no row: request_id is known already (a repeated submission)
-- Locks: the new row.   Index: run_request_id_key.
INSERT INTO protheon.run (paths, pipeline_name, pipeline_version, chunk_lines, reject_limit_lines, reject_limit_fraction, request_id, ephemeral, checksum)
VALUES (%(paths)s, %(pipeline_name)s, %(pipeline_version)s, %(chunk_lines)s, %(reject_limit_lines)s, %(reject_limit_fraction)s,
        %(request_id)s, %(ephemeral)s, %(checksum)s)
ON CONFLICT (request_id) DO NOTHING
RETURNING id;
