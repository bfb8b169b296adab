-- report_attempts: attempts at a run's chunks.
-- Params: run_id bigint, limit integer   Returns: one row an attempt, newest first   Index: run_load_pkey, task_load, attempt_pkey.
SELECT attempt.task_id, attempt.attempt_no, chunk.load_id, chunk.chunk_no, attempt.run_id, attempt.worker, attempt.host, attempt.process_uuid,
       attempt.started_at, attempt.ended_at, attempt.outcome, attempt.cost, attempt.error_class, attempt.message, attempt.traceback, attempt.sqlstate,
       attempt.lines, attempt.loaded, attempt.filtered, attempt.rejected, attempt.blank, attempt.rejected_parts, attempt.raw_bytes,
       attempt.wire_bytes, attempt.wait_s, attempt.fetch_s, attempt.decompress_s, attempt.transform_s, attempt.copy_s, attempt.merge_s,
       attempt.ledger_s, attempt.commit_s
  FROM (SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %(run_id)s) AS joined
  JOIN protheon.task ON task.load_id = joined.load_id
  JOIN protheon.attempt ON attempt.task_id = task.id
  LEFT JOIN protheon.chunk ON chunk.task_id = task.id
 ORDER BY attempt.started_at DESC, attempt.task_id DESC
 LIMIT %(limit)s;
