-- enqueue: make a chunk's task and manifest, ready to be claimed (an oversized line's is born succeeded).
-- Params: epoch bigint, load_id bigint, state text, and the manifest's columns   Returns: task_id, or no row
-- No row: another broker leads. The caller raises LeadershipLost.
-- A chunk that is there already, with the same bytes, answers with its task: the caller's last COMMIT was not answered and it asks again.
-- Other bytes at the same line are a defect, and the unique constraint says so.
-- Locks: leadership (share: a new leader waits for this transaction), then the new rows.
-- Index: leadership_pkey, chunk_load_id_first_line_key.
WITH leader AS (
    SELECT epoch FROM protheon.leadership WHERE epoch = %(epoch)s FOR SHARE
), there AS (
    SELECT chunk.task_id
      FROM leader, protheon.chunk
     WHERE chunk.load_id = %(load_id)s AND chunk.first_line = %(first_line)s AND chunk.raw_xxh3 = %(raw_xxh3)s
), made AS (
    INSERT INTO protheon.task (handler, load_id, state)
    SELECT 'ingest', %(load_id)s, %(state)s FROM leader WHERE NOT EXISTS (SELECT FROM there)
 RETURNING id
), written AS (
    INSERT INTO protheon.chunk (task_id, load_id, chunk_no, first_line, n_lines, byte_offset, raw_bytes, raw_xxh3, stored_bytes, stored_xxh3,
                                generation, restart_stored_offset, restart_raw_offset, restart_line, oversized)
    SELECT made.id, %(load_id)s, %(chunk_no)s, %(first_line)s, %(n_lines)s, %(byte_offset)s, %(raw_bytes)s, %(raw_xxh3)s, %(stored_bytes)s,
           %(stored_xxh3)s, %(generation)s, %(restart_stored_offset)s, %(restart_raw_offset)s, %(restart_line)s, %(oversized)s
      FROM made
 RETURNING task_id
)
SELECT task_id FROM written
UNION ALL
SELECT task_id FROM there;
