-- latest_run: the number of the newest run, NULL where there is none.
-- Params: none   Returns: id   Index: run_pkey.
SELECT max(id) AS id FROM protheon.run;
