-- report_refusals: why lines of a run's files are still refused, the commonest reason first, each with its first line.
-- Params: run_id bigint, look integer (rejects that are looked at, at most), limit integer (reasons)
-- Returns: (n, n_looked, path, line, part, reason, sqlstate, table_name, raw: its first KiB, raw_bytes): but for the first two of the first line
-- Reasons are one that differ in quoted values and numbers only; names of columns and the like stay. Only the beginning of a reason
-- is compared. As report_rejects, a replay is about the loads that it replays.
-- Index: run_load_pkey, load_replay_of, reject_load, reject_pkey.
WITH family AS (
    SELECT DISTINCT coalesce(load.replay_of, load.id) AS load_id
      FROM protheon.run_load JOIN protheon.load ON load.id = run_load.load_id
     WHERE run_load.run_id = %(run_id)s
), looked AS (
    SELECT family.load_id, reject.id, reject.line, reject.part, reject.sqlstate, reject.table_name, left(reject.reason, 200) AS reason
      FROM family
      JOIN protheon.load ON load.id = family.load_id OR load.replay_of = family.load_id
      JOIN protheon.reject ON reject.load_id = load.id
     WHERE reject.replayed_by IS NULL
     LIMIT %(look)s
), kinds AS (
    SELECT count(*) AS n, sum(count(*)) OVER () AS n_looked, min(ARRAY[load_id, line, id]) AS first
      FROM looked
     GROUP BY table_name, sqlstate, part,
              regexp_replace(reason,
                             '((?:[Cc]olumn|constraint|table|relation|type|field|argument|attribute|KeyError:) [''"`][^''"`]*[''"`])'
                             '|''[^'']*''|"[^"]*"|\d+(?:[.,]\d+)*',
                             '\1', 'g')
     ORDER BY n DESC, first
     LIMIT %(limit)s
)
SELECT kinds.n, kinds.n_looked::bigint, load.path, reject.line, reject.part, reject.reason, reject.sqlstate, reject.table_name,
       substr(reject.raw, 1, 1024) AS raw, reject.raw_bytes
  FROM kinds JOIN protheon.load ON load.id = kinds.first[1] JOIN protheon.reject ON reject.id = kinds.first[3]
 ORDER BY kinds.n DESC, kinds.first;
