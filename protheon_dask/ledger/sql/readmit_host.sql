-- readmit_host: a host that was set aside gets work like any other again.
-- Params: epoch bigint, host text   Returns: host, or no row: it was not aside, or another broker leads.
-- Locks: leadership (share), then host_aside.   Index: host_aside_pkey.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
)
DELETE FROM protheon.host_aside
 WHERE host = %(host)s AND EXISTS (SELECT FROM leader)
RETURNING host;
