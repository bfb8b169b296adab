-- note_commit: add to succeeded attempts how long their COMMIT took, known only after it. Gossip: lost with its worker.
-- Params: task_id bigint, attempt_no integer, commit_s real   Returns: nothing
-- Fenced by the outcome: a succeeded attempt is its own for ever.   Locks: attempt.   Index: attempt_pkey.
UPDATE protheon.attempt SET commit_s = %(commit_s)s
 WHERE task_id = %(task_id)s AND attempt_no = %(attempt_no)s AND outcome = 'succeeded';
