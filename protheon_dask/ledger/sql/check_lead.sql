-- check_lead: fence a transaction that acts for a broker: a new leader waits for its end.
-- Params: epoch bigint   Returns: one row, or none: another broker leads   Locks: leadership (share).   Index: leadership_pkey.
SELECT 1 FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE;
