-- keeps_checksums: were checksums of its rows asked for, as the run was submitted?
-- Params: run_id bigint   Returns: (checksum)   Index: run_pkey.
SELECT checksum FROM protheon.run WHERE id = %(run_id)s;
