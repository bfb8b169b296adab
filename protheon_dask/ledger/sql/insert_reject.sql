-- insert_reject: one refused line, or part of one, in its chunk's data transaction (or with its manifest, for an oversized line).
-- Params: the columns   Returns: nothing   Locks: the new row.   Index: none.
INSERT INTO protheon.reject (load_id, task_id, attempt_no, line, byte_offset, part, reason, sqlstate, table_name, raw, raw_bytes)
VALUES (%(load_id)s, %(task_id)s, %(attempt_no)s, %(line)s, %(byte_offset)s, %(part)s, %(reason)s, %(sqlstate)s, %(table_name)s, %(raw)s, %(raw_bytes)s);
