-- find_load: the load of this identity that is not retired, with what decides how a run joins it.
-- Params: source_id bigint, pipeline_name, pipeline_version, options text
-- Returns: (id, owner_run_id, owner_state, finished boolean, code_hash, chunk_lines, n_chunks, n_succeeded)   Locks: load.   Index: load_identity, task_load.
SELECT load.id, load.owner_run_id, run.state AS owner_state, load.finished_at IS NOT NULL AS finished, load.code_hash, load.chunk_lines,
       load.n_chunks,
       (SELECT count(*) FROM protheon.task WHERE task.load_id = load.id AND task.state = 'succeeded') AS n_succeeded
  FROM protheon.load JOIN protheon.run ON run.id = load.owner_run_id
 WHERE load.source_id = %(source_id)s AND load.pipeline_name = %(pipeline_name)s AND load.pipeline_version = %(pipeline_version)s
   AND load.options = %(options)s AND load.retired_at IS NULL AND load.replay_of IS NULL
   FOR UPDATE OF load;
