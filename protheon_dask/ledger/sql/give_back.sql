-- give_back: what ended attempts were charged to their tasks is taken off again; a task that died of it is ready once more.
-- Params: task_ids bigint[], attempt_nos integer[] (pairs), costs text[] (what may be given back), epoch bigint? (of a coordinator;
--         NULL: the process whose attempts they were), now timestamptz?
-- Returns: (task_id, attempt_no, is_back boolean: its task was dead and is ready, is_locked boolean) of each that was given back now; a
-- second time none. Of a task whose row is locked nothing is: its pairs are is_locked, and are to be asked again.
-- A task stays dead where a person gave it up, its run has ended or its load was retired: its counts are put right all the same.
-- What an attempt cost before its task was replayed is forgotten already: it is noted there and takes nothing off what came after.
-- A succeeded task is left as it is; a backoff is over. The state is asked again where it is written: a replay may have come first.
-- Locks: leadership (share), task in order of id, never waiting (who asks renews leases, or leads), then attempt, then dead_letter.
-- Index: task_pkey, attempt_pkey, dead_letter_open.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
), asked AS (
    SELECT DISTINCT * FROM unnest(%(task_ids)s::bigint[], %(attempt_nos)s::integer[]) AS pair (task_id, attempt_no)
), held AS (
    SELECT task.id, task.counted_after
      FROM protheon.task
     WHERE task.id IN (SELECT asked.task_id FROM asked)
       AND (%(epoch)s::bigint IS NULL OR EXISTS (SELECT FROM leader))
     ORDER BY task.id
       FOR NO KEY UPDATE SKIP LOCKED
), given AS (
    UPDATE protheon.attempt SET given_back = true
      FROM asked JOIN held ON held.id = asked.task_id
     WHERE attempt.task_id = asked.task_id AND attempt.attempt_no = asked.attempt_no
       AND attempt.ended_at IS NOT NULL AND attempt.cost = ANY (%(costs)s::text[]) AND NOT attempt.given_back
 RETURNING attempt.task_id, attempt.attempt_no, attempt.cost, attempt.attempt_no > held.counted_after AS counts
), sums AS (
    SELECT given.task_id,
           count(*) FILTER (WHERE given.cost = 'failure') AS failures,
           count(*) FILTER (WHERE given.cost = 'crash') AS crashes,
           count(*) FILTER (WHERE given.cost = 'loss') AS losses
      FROM given
     WHERE given.counts
     GROUP BY given.task_id
), revived AS (
    SELECT sums.task_id
      FROM sums
      JOIN protheon.dead_letter ON dead_letter.task_id = sums.task_id AND dead_letter.replayed_at IS NULL AND dead_letter.purged_at IS NULL
      JOIN protheon.attempt ON attempt.task_id = dead_letter.task_id AND attempt.attempt_no = dead_letter.attempt_no
      JOIN protheon.task ON task.id = sums.task_id AND task.state = 'dead'
      LEFT JOIN protheon.load ON load.id = task.load_id
      LEFT JOIN protheon.run ON run.id = load.owner_run_id
     WHERE attempt.cost IN (SELECT given.cost FROM given WHERE given.task_id = sums.task_id AND given.counts)
       AND load.retired_at IS NULL AND run.ended_at IS NULL
), closed AS (
    UPDATE protheon.dead_letter SET replayed_at = coalesce(%(now)s, now())
      FROM revived
     WHERE dead_letter.task_id = revived.task_id AND dead_letter.replayed_at IS NULL AND dead_letter.purged_at IS NULL
), moved AS (
    UPDATE protheon.task
       SET failures = greatest(0, task.failures - sums.failures),
           crashes = greatest(0, task.crashes - sums.crashes),
           losses = greatest(0, task.losses - sums.losses),
           state = CASE WHEN revived.task_id IS NOT NULL AND task.state = 'dead' THEN 'ready' ELSE task.state END,
           ready_at = CASE WHEN revived.task_id IS NOT NULL OR task.state = 'ready'
                           THEN least(task.ready_at, coalesce(%(now)s, now())) ELSE task.ready_at END
      FROM sums LEFT JOIN revived ON revived.task_id = sums.task_id
     WHERE task.id = sums.task_id AND task.state <> 'succeeded'
)
SELECT given.task_id, given.attempt_no, revived.task_id IS NOT NULL AS is_back, false AS is_locked
  FROM given LEFT JOIN revived ON revived.task_id = given.task_id
UNION ALL
SELECT asked.task_id, asked.attempt_no, false, true
  FROM asked JOIN protheon.task ON task.id = asked.task_id
 WHERE (%(epoch)s::bigint IS NULL OR EXISTS (SELECT FROM leader)) AND asked.task_id NOT IN (SELECT held.id FROM held)
 ORDER BY task_id, attempt_no;
