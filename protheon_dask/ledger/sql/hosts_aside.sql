-- hosts_aside: the hosts that were set aside and have not shown since that they work; few, or none.
-- Params: now timestamptz?   Returns: (host, reason, set_aside_at, until_at, is_due boolean: it is to be tried with one task)
SELECT host, reason, set_aside_at, until_at, until_at <= coalesce(%(now)s, now()) AS is_due
  FROM protheon.host_aside
 ORDER BY host;
