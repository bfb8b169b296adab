-- mark_replayed: the lines of a replay's chunk are accounted for by it, in its data transaction.
-- Params: run_id bigint, load_id bigint (the replay), first_line, last_line bigint (in its file)   Returns: id of each
-- Another number of rows than the chunk has lines is a defect.   Locks: reject, run (key share).   Index: reject_replay.
UPDATE protheon.reject SET replayed_by = %(run_id)s
 WHERE replay_load_id = %(load_id)s AND replay_line BETWEEN %(first_line)s AND %(last_line)s AND replayed_by IS NULL
RETURNING id;
