-- undoing_loads: loads of this identity whose rows are being deleted.
-- Params: source_id bigint, pipeline_name, pipeline_version, options text   Returns: id   Index: load_undoing.
SELECT id FROM protheon.load
 WHERE source_id = %(source_id)s AND pipeline_name = %(pipeline_name)s AND pipeline_version = %(pipeline_version)s AND options = %(options)s
   AND undo_started_at IS NOT NULL AND undone_at IS NULL AND replay_of IS NULL
 ORDER BY id;
