-- replay_originals: the loads whose rejects a run is about: its own, and for a load that replays another one, that one.
-- Params: run_id bigint
-- Returns: one row a load: (load_id, path, size_bytes, digest, is_retired boolean), in order of load   Index: run_load_pkey, load_pkey, source_pkey.
SELECT original.id AS load_id, original.path, source.size_bytes, source.digest, original.retired_at IS NOT NULL AS is_retired
  FROM (SELECT DISTINCT coalesce(load.replay_of, load.id) AS load_id
          FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
         WHERE run_load.run_id = %(run_id)s) AS family
  JOIN protheon.load AS original ON original.id = family.load_id
  JOIN protheon.source ON source.id = original.source_id
 ORDER BY original.id;
