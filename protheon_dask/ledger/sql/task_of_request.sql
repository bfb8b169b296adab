-- task_of_request: the task that a submission made, and whether this one asks for the same.
-- Params: request_id text, handler text, payload jsonb, priority smallint, visibility_s double precision?, max_failures smallint?
-- Returns: (task_id, is_same boolean), or no row   Index: task_request. The delay is not compared: it may have passed.
SELECT id AS task_id,
       (handler, payload, priority) = (%(handler)s, %(payload)s::jsonb, %(priority)s)
       AND (visibility_s, max_failures) IS NOT DISTINCT FROM (%(visibility_s)s::double precision, %(max_failures)s::smallint) AS is_same
  FROM protheon.task
 WHERE request_id = %(request_id)s;
