-- Replayed rejects, undone loads, and checksums of rows.

-- A replay is a load too: of a file that Protheon writes from the refused lines of another load.
ALTER TABLE protheon.load
    ADD COLUMN replay_of       bigint REFERENCES protheon.load,   -- the load whose rejects it replays (never itself a replay)
    ADD COLUMN undo_started_at timestamptz,                       -- its rows are being deleted; from here on it is retired
    ADD COLUMN undone_at       timestamptz,                       -- they are all gone
    ADD CHECK (undo_started_at IS NULL OR retired_at IS NOT NULL),
    ADD CHECK (undone_at IS NULL OR undo_started_at IS NOT NULL);
CREATE INDEX load_replay_of ON protheon.load (replay_of) WHERE replay_of IS NOT NULL;

-- Two replays may hold the same lines: they have no part in the identity of loads.
DROP INDEX protheon.load_identity;
CREATE UNIQUE INDEX load_identity ON protheon.load (source_id, pipeline_name, pipeline_version, options)
 WHERE retired_at IS NULL AND replay_of IS NULL;

-- Where a refused line stands in the file of its latest replay. replayed_by is set when that replay's chunk commits: then the
-- line is loaded, filtered or blank, or is a reject of the replay. So each line has at most one reject that is not replayed.
ALTER TABLE protheon.reject
    ADD COLUMN replay_load_id bigint REFERENCES protheon.load,
    ADD COLUMN replay_line    bigint CHECK (replay_line >= 1),
    ADD CHECK ((replay_load_id IS NULL) = (replay_line IS NULL));
CREATE UNIQUE INDEX reject_replay ON protheon.reject (replay_load_id, replay_line) WHERE replay_load_id IS NOT NULL;

-- Rows of a run with checksums: the sum modulo 2^64 (as a signed bigint) of XXH3-64 over each row that was sent, without the
-- columns that come back other than sent. NULL: not asked for, or nothing of the table can be compared.
ALTER TABLE protheon.run ADD COLUMN checksum boolean NOT NULL DEFAULT false;
ALTER TABLE protheon.table_count
    ADD COLUMN checksum bigint,
    ADD COLUMN compared bigint,                                   -- names the columns that were summed, with their types (a hash)
    ADD CHECK ((checksum IS NULL) = (compared IS NULL));

-- The rows of a load that were deleted again, by table; written in the transactions that delete them, so that an undo that was
-- killed goes on and its sums are right. A table of the load is here from the start: others know what is being undone.
CREATE TABLE protheon.undo_count (
    load_id      bigint NOT NULL REFERENCES protheon.load,
    table_name   text NOT NULL,
    keeps_out    boolean NOT NULL,                        -- new rows would be judged by rows that go, or refer to them: no run begins meanwhile
    deleted_rows bigint NOT NULL DEFAULT 0 CHECK (deleted_rows >= 0),
    PRIMARY KEY (load_id, table_name)
);
CREATE INDEX load_undoing ON protheon.load (id) WHERE undo_started_at IS NOT NULL AND undone_at IS NULL;
