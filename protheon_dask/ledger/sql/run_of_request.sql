-- run_of_request: the run of a submission that came twice.
-- Params: request_id text   Returns: (id, state), or no row   Index: run_request_id_key.
SELECT id, state FROM protheon.run WHERE request_id = %(request_id)s;
