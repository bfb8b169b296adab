-- replay_places: where lines of a replay's file stand in the source that they came from.
-- Params: load_id bigint (the replay), first_line, last_line bigint (in its file)
-- Returns: (line, byte_offset) in the order of the file; fewer than were asked for: some are replayed already   Index: reject_replay.
SELECT line, byte_offset
  FROM protheon.reject
 WHERE replay_load_id = %(load_id)s AND replay_line BETWEEN %(first_line)s AND %(last_line)s AND replayed_by IS NULL
 ORDER BY replay_line;
