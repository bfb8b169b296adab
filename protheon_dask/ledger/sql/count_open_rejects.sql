-- count_open_rejects: what is still refused of these loads and of their replays.
-- Params: load_ids bigint[] (none of them a replay)
-- Returns: one row (n_lines: whole lines, those that wait in a replay included; n_parts)   Index: load_replay_of, reject_load.
SELECT count(*) FILTER (WHERE reject.part IS NULL) AS n_lines, count(*) FILTER (WHERE reject.part IS NOT NULL) AS n_parts
  FROM protheon.load JOIN protheon.reject ON reject.load_id = load.id
 WHERE (load.id = ANY (%(load_ids)s::bigint[]) OR load.replay_of = ANY (%(load_ids)s::bigint[])) AND reject.replayed_by IS NULL;
