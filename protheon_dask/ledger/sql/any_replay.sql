-- any_replay: is there a replay of any of these loads?
-- Params: load_ids bigint[]   Returns: (one), or no row   Index: load_replay_of.
SELECT 1 AS one FROM protheon.load WHERE load.replay_of = ANY (%(load_ids)s::bigint[]) LIMIT 1;
