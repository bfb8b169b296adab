-- enqueue_task: make a task of the general queue, unless one was made under this request_id.
-- Params: handler text, payload jsonb, priority smallint, delay_s double precision, visibility_s double precision?, max_failures smallint?,
--         request_id text?, now timestamptz?
-- Returns: task_id, or no row: request_id names a task already (task_of_request.sql); another call that is making it was waited for.
-- Locks: the new row.   Index: task_request.
INSERT INTO protheon.task (handler, payload, priority, ready_at, visibility_s, max_failures, request_id, created_at)
VALUES (%(handler)s, %(payload)s::jsonb, %(priority)s, coalesce(%(now)s, now()) + make_interval(secs => %(delay_s)s),
        %(visibility_s)s, %(max_failures)s, %(request_id)s, coalesce(%(now)s, now()))
    ON CONFLICT (request_id) WHERE request_id IS NOT NULL DO NOTHING
RETURNING id AS task_id;
