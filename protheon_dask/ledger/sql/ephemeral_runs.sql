-- ephemeral_runs: running runs (a paused one stays paused, with its reason) whose cluster lived as long as one command; asked by the broker that leads now, so that command is gone.
-- Params: none   Returns: id   Index: run_open.
SELECT id FROM protheon.run WHERE ended_at IS NULL AND state <> 'paused' AND ephemeral ORDER BY id;
