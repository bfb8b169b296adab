-- ephemeral_runs: open runs whose cluster lived as long as one command; asked by the broker that leads now, so that command is gone.
-- Params: none   Returns: id   Index: run_open.
SELECT id FROM protheon.run WHERE ended_at IS NULL AND ephemeral ORDER BY id;
