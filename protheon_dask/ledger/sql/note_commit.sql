-- note_commit: add to a succeeded attempt how long its last statements and its COMMIT took, known only after them. Gossip: lost with its worker.
-- Params: task_id bigint, attempt_no integer, ledger_s, commit_s real   Returns: nothing
-- Fenced by the outcome: a succeeded attempt is its own for ever.   Locks: attempt.   Index: attempt_pkey.
UPDATE protheon.attempt SET ledger_s = %(ledger_s)s, commit_s = %(commit_s)s
 WHERE task_id = %(task_id)s AND attempt_no = %(attempt_no)s AND outcome = 'succeeded';
