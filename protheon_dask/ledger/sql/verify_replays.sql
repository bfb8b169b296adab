-- verify_replays: what does not add up between the rejects of a run's loads and the replays that are said to account for them.
-- Params: run_id bigint
-- Returns: one row a finding (check_no: of run.verify.LEDGER_CHECKS, from 1; finding: in words); none: each replayed line is accounted for by one chunk, and no line is refused twice
-- Index: run_load_pkey, load_replay_of, reject_load, reject_replay, chunk_load_id_first_line_key, task_pkey, attempt_pkey.
WITH joined AS (
    SELECT load.* FROM protheon.load WHERE load.id IN (SELECT load_id FROM protheon.run_load WHERE run_id = %(run_id)s)
), replayed AS (
    SELECT reject.load_id, reject.replayed_by, count(*) AS n_lines
      FROM joined
      JOIN protheon.reject ON reject.load_id = joined.id AND reject.replayed_by IS NOT NULL
      LEFT JOIN LATERAL (
           SELECT chunk.task_id, chunk.first_line + chunk.n_lines AS next_line
             FROM protheon.chunk
            WHERE chunk.load_id = reject.replay_load_id AND chunk.first_line <= reject.replay_line
            ORDER BY chunk.first_line DESC LIMIT 1) AS holder ON reject.replay_line < holder.next_line
      LEFT JOIN protheon.task ON task.id = holder.task_id AND task.state = 'succeeded'
      LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no AND attempt.run_id = reject.replayed_by
     WHERE attempt.task_id IS NULL
     GROUP BY reject.load_id, reject.replayed_by
), chunks AS (
    SELECT chunk.load_id, chunk.chunk_no, chunk.n_lines,
           (SELECT count(*) FROM protheon.reject
             WHERE reject.replay_load_id = chunk.load_id AND reject.replayed_by IS NOT NULL
               AND reject.replay_line >= chunk.first_line AND reject.replay_line < chunk.first_line + chunk.n_lines) AS n_closed
      FROM joined
      JOIN protheon.chunk ON chunk.load_id = joined.id
      JOIN protheon.task ON task.id = chunk.task_id AND task.state = 'succeeded'
     WHERE joined.replay_of IS NOT NULL
), strangers AS (
    SELECT reject.load_id, count(*) AS n_lines
      FROM joined
      JOIN protheon.reject ON reject.load_id = joined.id
      LEFT JOIN protheon.reject AS before ON before.replay_load_id = reject.load_id AND before.line = reject.line
     WHERE joined.replay_of IS NOT NULL AND before.id IS NULL
     GROUP BY reject.load_id
), twice AS (
    SELECT family.load_id, reject.line
      FROM (SELECT DISTINCT coalesce(joined.replay_of, joined.id) AS load_id FROM joined) AS family
      JOIN protheon.load ON load.id = family.load_id OR load.replay_of = family.load_id
      JOIN protheon.reject ON reject.load_id = load.id AND reject.part IS NULL AND reject.replayed_by IS NULL
     GROUP BY family.load_id, reject.line
    HAVING count(*) > 1
)
SELECT 6 AS check_no, format('load %%s: %%s rejects are marked as replayed by run %%s, which has no chunk that accounts for them', load_id, n_lines, replayed_by)
       AS finding
  FROM replayed
UNION ALL
SELECT 6, format('chunk %%s of replay %%s: its %%s lines closed %%s rejects', chunk_no, load_id, n_lines, n_closed)
  FROM chunks WHERE n_closed <> n_lines
UNION ALL
SELECT 6, format('replay %%s: %%s of its rejects are of lines that it did not replay', load_id, n_lines) FROM strangers
UNION ALL
SELECT 6, format('load %%s: %%s refused more than once, the first of them line %%s', load_id,
       CASE count(*) WHEN 1 THEN '1 line is' ELSE count(*) || ' lines are' END, min(line))
  FROM twice GROUP BY load_id;
