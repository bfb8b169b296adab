-- set_host_aside: a host gets no work for aside_s; one that is aside already is so anew from now.
-- Params: epoch bigint, host text, reason text, aside_s double precision, now timestamptz?
-- Returns: host, or no row: another broker leads.   Locks: leadership (share), then host_aside.   Index: host_aside_pkey.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
)
INSERT INTO protheon.host_aside AS aside (host, reason, set_aside_at, until_at)
SELECT %(host)s, %(reason)s, coalesce(%(now)s, now()), coalesce(%(now)s, now()) + make_interval(secs => %(aside_s)s)
  FROM leader
    ON CONFLICT (host) DO UPDATE SET reason = EXCLUDED.reason, until_at = EXCLUDED.until_at
RETURNING host;
