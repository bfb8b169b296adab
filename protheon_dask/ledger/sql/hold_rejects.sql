-- hold_rejects: note where refused lines stand in the file of their replay.
-- Params: load_id bigint (the replay), first_line bigint, reject_ids bigint[] (of the lines from there on)   Returns: id of each
-- A row that does not come back was replayed meanwhile. Locks: reject.   Index: reject_pkey, reject_replay.
UPDATE protheon.reject
   SET replay_load_id = %(load_id)s, replay_line = %(first_line)s - 1 + item.place
  FROM unnest(%(reject_ids)s::bigint[]) WITH ORDINALITY AS item (id, place)
 WHERE reject.id = item.id AND reject.replayed_by IS NULL
RETURNING reject.id;
