-- What recovery needs: losses that are given back, hosts that are set aside, dead letters that were purged, and tasks of the general queue.

ALTER TABLE protheon.attempt
    ADD COLUMN given_back boolean NOT NULL DEFAULT false;   -- it was charged to its task, and is not any more

ALTER TABLE protheon.dead_letter
    ADD COLUMN purged_at timestamptz;                       -- given up by a person: its task stays dead, and its bytes are gone

-- Hosts that get no work for now: what failed there did not fail elsewhere.
CREATE TABLE protheon.host_aside (
    host         text PRIMARY KEY,
    reason       text NOT NULL,                             -- what failed there last, for people
    set_aside_at timestamptz NOT NULL DEFAULT now(),
    until_at     timestamptz NOT NULL                       -- it is tried again from then on
);

ALTER TABLE protheon.task
    ADD COLUMN counted_after integer NOT NULL DEFAULT 0,    -- attempt_no when it was last replayed: what attempts up to it cost is forgotten
    ADD COLUMN request_id   text,                           -- names the submission, so that a repeated one finds this task
    ADD COLUMN result       jsonb,                          -- what its function returned; of other handlers than 'ingest', as the rest
    ADD COLUMN visibility_s double precision CHECK (visibility_s > 0),  -- progress is heard of that often, or the attempt is taken back; NULL: stall_s
    ADD COLUMN max_failures smallint CHECK (max_failures >= 1);         -- dead at that many failures; NULL: policy's
CREATE UNIQUE INDEX task_request ON protheon.task (request_id) WHERE request_id IS NOT NULL;

ALTER TABLE protheon.run
    ADD COLUMN resumed_at timestamptz;                      -- an attempt of before pauses the run no more: what it met may be mended

-- A cancellation that waited for a claim did not see its attempt, which stayed open: the task could not be claimed again.
UPDATE protheon.attempt SET ended_at = now(), outcome = 'cancelled', cost = 'nothing', message = 'the task was cancelled'
  FROM protheon.task
 WHERE task.id = attempt.task_id AND task.state <> 'running' AND attempt.ended_at IS NULL;
