-- find_source: the source with this identity, made if it is new.
-- Params: size_bytes bigint, digest bytea   Returns: id   Locks: source.   Index: source_size_bytes_digest_key.
-- The update without effect makes the row come back; it also makes two submissions of one source take turns from here on.
INSERT INTO protheon.source (size_bytes, digest) VALUES (%(size_bytes)s, %(digest)s)
ON CONFLICT (size_bytes, digest) DO UPDATE SET size_bytes = excluded.size_bytes
RETURNING id;
