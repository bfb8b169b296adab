-- verify_run: what does not add up in a run's loads, from the ledger alone; those that were undone are left aside.
-- Params: run_id bigint
-- Returns: one row a finding (check_no: of run.verify.LEDGER_CHECKS, from 1; finding: in words); none: every line of every file is accounted for once
-- Index: run_load_pkey, task_load, chunk_load_id_chunk_no_key, attempt_pkey, reject_load, table_count_pkey.
WITH joined AS (
    SELECT load.* FROM protheon.load
     WHERE load.undo_started_at IS NULL AND load.id IN (SELECT load_id FROM protheon.run_load WHERE run_id = %(run_id)s)
), manifest AS (
    SELECT chunk.load_id, chunk.chunk_no, chunk.first_line, chunk.byte_offset, chunk.n_lines,
           row_number() OVER before_it AS next_no,
           1 + coalesce(sum(chunk.n_lines) OVER before, 0) AS next_line,
           coalesce(sum(chunk.raw_bytes) OVER before, 0) AS next_byte
      FROM joined JOIN protheon.chunk ON chunk.load_id = joined.id
    WINDOW before_it AS (PARTITION BY chunk.load_id ORDER BY chunk.chunk_no),
           before AS (PARTITION BY chunk.load_id ORDER BY chunk.chunk_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), work AS (
    SELECT joined.id AS load_id, task.id AS task_id, task.state, chunk.chunk_no, chunk.n_lines, attempt.outcome, attempt.lines,
           attempt.loaded + attempt.filtered + attempt.rejected + attempt.blank AS counted, attempt.rejected, attempt.rejected_parts,
           (SELECT count(*) FROM protheon.attempt AS other WHERE other.task_id = task.id AND other.outcome = 'succeeded') AS successes,
           (SELECT count(*) FROM protheon.reject WHERE reject.load_id = joined.id AND reject.task_id = task.id AND reject.part IS NULL) AS reject_rows,
           (SELECT count(*) FROM protheon.reject WHERE reject.load_id = joined.id AND reject.task_id = task.id AND reject.part IS NOT NULL) AS part_rows
      FROM joined
      JOIN protheon.task ON task.load_id = joined.id
      LEFT JOIN protheon.chunk ON chunk.task_id = task.id
      LEFT JOIN protheon.attempt ON attempt.task_id = task.id AND attempt.attempt_no = task.attempt_no
)
SELECT 1 AS check_no, format('file %%s: %%s', coalesce('rejects of run ' || original.owner_run_id, joined.path), CASE joined.split_state
           WHEN 'pending' THEN 'it is not cut yet' WHEN 'splitting' THEN 'it is still being cut'
           ELSE coalesce(joined.split_message, joined.split_state) END) AS finding
  FROM joined LEFT JOIN protheon.load AS original ON original.id = joined.replay_of
 WHERE joined.split_state <> 'complete'
UNION ALL
SELECT 1, format('load %%s: %%s chunks in the ledger, its source has %%s', joined.id, count(chunk.task_id), joined.n_chunks)
  FROM joined LEFT JOIN protheon.chunk ON chunk.load_id = joined.id
 WHERE joined.n_chunks IS NOT NULL GROUP BY joined.id, joined.n_chunks HAVING count(chunk.task_id) <> joined.n_chunks
UNION ALL
SELECT 1, format('load %%s: chunk %%s begins at line %%s, byte %%s; line %%s, byte %%s was to come', load_id, chunk_no, first_line, byte_offset, next_line, next_byte)
  FROM manifest WHERE (chunk_no, first_line, byte_offset) IS DISTINCT FROM (next_no, next_line, next_byte)
UNION ALL
SELECT 2, format('load %%s: %%s %%s', load_id, CASE count(*) WHEN 1 THEN '1 chunk is' ELSE count(*) || ' chunks are' END, state)
  FROM work WHERE state <> 'succeeded' GROUP BY load_id, state
UNION ALL
SELECT 2, format('chunk %%s of load %%s: %%s attempts succeeded where one must', chunk_no, load_id, successes)
  FROM work WHERE (state = 'succeeded') <> (successes = 1)
UNION ALL
SELECT 3, format('chunk %%s of load %%s: %%s of %%s lines are accounted for', chunk_no, load_id, counted, n_lines)
  FROM work WHERE state = 'succeeded' AND (counted IS DISTINCT FROM n_lines OR lines IS DISTINCT FROM n_lines)
UNION ALL
SELECT 5, format('chunk %%s of load %%s: %%s rejected, %%s kept', chunk_no, load_id,
       CASE rejected WHEN 1 THEN '1 line was' ELSE rejected || ' lines were' END, reject_rows)
  FROM work WHERE state = 'succeeded' AND (rejected, rejected_parts) IS DISTINCT FROM (reject_rows, part_rows)
UNION ALL
SELECT 4, format('chunk %%s of load %%s: table %%s: %%s rows were offered, %%s are accounted for', chunk_no, load_id, counted.table_name,
              counted.offered, counted.inserted + counted.updated + counted.ignored)
  FROM work JOIN protheon.table_count AS counted ON counted.task_id = work.task_id
 WHERE counted.offered <> counted.inserted + counted.updated + counted.ignored;
