-- take_leadership: raise the epoch; the caller holds the session advisory lock of leadership on this connection.
-- Params: broker_uuid uuid, now timestamptz?   Returns: (epoch, ledger_id)
-- Locks: leadership: waits for transactions of the leader before (enqueue, expire), which are then fenced out.
UPDATE protheon.leadership
   SET epoch = epoch + 1, broker_uuid = %(broker_uuid)s, taken_at = coalesce(%(now)s, now())
RETURNING epoch, ledger_id;
